#include <algorithm>
#include <memory>
#include <set>

#include "cache/block_table.h"
#include "cache/kv_cache.h"
#include "check.h"
#include "driving.h"
#include "proof.h"

namespace {

using namespace ts::scheduler;

static_assert(!std::is_copy_constructible_v<WindowTable> && !std::is_copy_constructible_v<StatePages>);
static_assert(!std::is_convertible_v<Writable<Window>, Writable<RunningState>>);

constexpr int kPage = 4;

CacheGroup window_of(int tokens, int pages) {
    return {.kind = CacheGroup::Kind::window, .num_pages = pages, .window = tokens};
}
CacheGroup states_every(int blocks, int pages) {
    return {.kind = CacheGroup::Kind::state, .num_pages = pages, .checkpoint_blocks = blocks};
}

Config with(std::vector<CacheGroup> groups) {
    return {.page_size = kPage,
            .num_pages = 64,
            .max_num_seqs = 2,
            .max_model_len = 200,
            .vocab_size = 100,
            .chunk_tokens = 16,
            .max_queued = 8,
            .depth = 1,
            .growth_room = 0,
            .groups = std::move(groups)};
}

// What a run told the worker, and what it had cached.
struct Run {
    std::vector<PageEntry> pages;
    std::vector<StateEntry> states;
    Position first_start = 0;
    Position cached = 0;
    std::vector<Token> sampled;
};

// Runs one request to its end, with 50, 51, ... as its answer.
Run run(Scheduler& scheduler, RequestId id, std::vector<Token> prompt, int max_tokens) {
    CHECK(!scheduler.submit(asked(id, std::move(prompt), max_tokens)));
    Run result;
    bool first = true;
    while (!scheduler.idle()) {
        const StepPlan* plan = scheduler.plan();
        CHECK(plan != nullptr && plan->rows.size() == 1);
        result.first_start = std::exchange(first, false) ? plan->rows[0].start : result.first_start;
        result.pages.insert(result.pages.end(), plan->pages.begin(), plan->pages.end());
        result.states.insert(result.states.end(), plan->states.begin(), plan->states.end());
        std::vector<Token> sampled;
        if ((plan->rows[0].flags & kRowSample) != 0) {
            sampled.push_back(50 + static_cast<Token>(result.sampled.size()));
        }
        result.sampled.insert(result.sampled.end(), sampled.begin(), sampled.end());
        const auto settled = scheduler.settle(plan->step, sampled);
        for (const Output& output : std::get<std::span<const Output>>(settled)) {
            result.cached = output.cached_tokens;
        }
    }
    return result;
}

std::vector<int> blocks_of(const Run& run, int group) {
    std::vector<int> result;
    for (const PageEntry& entry : run.pages) {
        if (entry.group == group) {
            result.push_back(entry.block);
        }
    }
    return result;
}

PageId page_of(const Run& run, int group, int block) {
    const auto found = std::ranges::find_if(
        run.pages, [&](const PageEntry& entry) { return entry.group == group && entry.block == block; });
    CHECK(found != run.pages.end());
    return found->page;
}

std::vector<Position> positions(const Run& run, int save) {
    std::vector<Position> result;
    for (const StateEntry& entry : run.states) {
        if (entry.save == save) {
            result.push_back(entry.position);
        }
    }
    std::ranges::sort(result);
    return result;
}

TEST(a_window_holds_only_the_blocks_that_it_covers) {
    Scheduler scheduler(with({window_of(6, 32)}));
    CHECK(!scheduler.submit(asked(1, tokens(40), 20)));
    for (int i = 0; i < 10; ++i) {
        const StepPlan* plan = scheduler.plan();
        const std::vector<Token> sampled(plan->rows[0].flags == 0 ? 0 : 1, 50);
        (void)scheduler.settle(plan->step, sampled);
        const RequestSnapshot request = scheduler.snapshot().requests.at(0);
        const RequestGroupSnapshot& held = request.groups.at(0);
        CHECK(held.first == (request.settled - 5) / kPage);
        CHECK(held.first + std::ssize(held.pages) == (request.settled + kPage - 1) / kPage);
    }
}

TEST(a_window_group_is_told_of_block_by_block) {
    Scheduler scheduler(with({window_of(6, 32)}));
    const Run first = run(scheduler, 1, tokens(30), 3);
    CHECK(blocks_of(first, 0) == (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
    CHECK(blocks_of(first, 1) == blocks_of(first, 0));
    const Run second = run(scheduler, 2, tokens(30), 3);
    CHECK(second.cached == 28 && second.first_start == 28);
    CHECK(blocks_of(second, 0) == (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
    CHECK(blocks_of(second, 1) == (std::vector<int>{5, 6, 7}));  // 28 - 6 + 1 = 23 is in block 5
}

TEST(a_prefix_reaches_as_far_as_the_window_has_pages) {
    const int least = static_cast<int>(least_pages(with({}), window_of(6, 0)));
    Scheduler scheduler(with({window_of(6, least)}));
    run(scheduler, 1, tokens(30), 1);
    run(scheduler, 2, tokens(4 * (least - 6), 40), 1);  // takes all idle pages but the last ones of request 1
    const Run again = run(scheduler, 3, tokens(30), 1);
    CHECK(again.cached == 28);
    run(scheduler, 4, tokens(4 * least, 40), 1);  // what has been hit stays for a turnover of the pool
    run(scheduler, 5, tokens(4 * least, 50), 1);
    const Run late = run(scheduler, 6, tokens(30), 1);
    CHECK(late.cached == 0);  // full attention still has its blocks, the window has not
    CHECK(scheduler.stats().prefix_evictions == 0);
}

TEST(a_window_of_one_token_needs_nothing_of_the_prefix) {
    Scheduler scheduler(with({window_of(1, 32)}));
    run(scheduler, 1, tokens(30), 1);
    const Run second = run(scheduler, 2, tokens(30), 1);
    CHECK(second.cached == 28 && blocks_of(second, 1) == std::vector<int>{7});
}

TEST(states_are_kept_at_bounds_and_loaded_from_them) {
    Scheduler scheduler(with({states_every(3, 32)}));
    const Run first = run(scheduler, 1, tokens(30), 20);
    CHECK(blocks_of(first, 1) == std::vector<int>{0});
    CHECK(positions(first, 1) == (std::vector<Position>{12, 24, 28, 36, 48}) && positions(first, 0).empty());
    const Run same = run(scheduler, 2, tokens(30), 1);
    CHECK(same.cached == 28 && positions(same, 0) == std::vector<Position>{28} && positions(same, 1).empty());
    std::vector<Token> next = tokens(30);
    next.insert(next.end(), first.sampled.begin(), first.sampled.end());
    next.push_back(7);
    const Run turn = run(scheduler, 3, next, 1);
    CHECK(turn.cached == 48 && positions(turn, 0) == std::vector<Position>{48});
}

TEST(a_prefix_without_a_checkpoint_at_its_end_goes_back_to_one) {
    Scheduler scheduler(with({states_every(3, 32)}));
    run(scheduler, 1, tokens(30), 1);
    std::vector<Token> branch = tokens(22);  // 20 tokens in common, checkpoints at 12, 24 and 28
    branch.push_back(90);
    CHECK(run(scheduler, 2, branch, 1).cached == 12);
}

TEST(all_groups_agree_on_one_prefix) {
    const Config config =
        with({window_of(6, 32), states_every(2, 32), window_of(9, 32), states_every(3, 32)});
    Scheduler scheduler(config);
    const Run first = run(scheduler, 1, tokens(31), 1);
    CHECK(blocks_of(first, 2) == std::vector<int>{0} && blocks_of(first, 4) == std::vector<int>{0});
    std::vector<Token> branch = tokens(27);
    branch.push_back(90);
    const Run second = run(scheduler, 2, branch, 1);
    CHECK(second.cached == 24);  // where both states stand, short of 26
    CHECK(blocks_of(second, 1).front() == 4 && blocks_of(second, 3).front() == 4);
    branch = tokens(23);
    branch.push_back(91);
    CHECK(run(scheduler, 3, branch, 1).cached == 0);  // 20: none; 16: one; 12: the other
}

TEST(a_first_agreement_of_all_is_found_past_many_that_lack_somebody) {
    Config config = with({window_of(6, 8), states_every(1, 32)});
    KvCache cache(config);
    CacheGroups& groups = *cache.groups();
    const Sequence sequence(tokens(40), 1, {}, kPage);
    BlockTable table;
    GroupLease lease = groups.admit({}, Retention::once);
    while (table.size() < 10) {
        table.append(std::move(*cache.allocate()));
    }
    StepPlan plan;
    for (Position end = 8; end <= 40; end += 8) {
        groups.plan(lease, {0, end - 8, end, RowKind::chunk}, plan);
        with_proof([&](const SettleProof& proof) {
            table.publish(proof, cache.index(), sequence, end / kPage, Retention::once, &lease.nodes);
            groups.settle(lease, proof, end, Retention::once);
        });
    }
    std::vector<PrefixIndex::Found> found;
    for (const PrefixIndex::Node node : lease.nodes) {
        found.push_back({node, 0});
    }
    CHECK(groups.agreed(found) == 10);  // the window has blocks 2 to 9: eight pages
    CHECK(groups.agreed(std::span(found).first(4)) == 4);
    CHECK(groups.agreed(std::span(found).first(3)) == 0);  // wants block 1
}

TEST(a_checkpoint_is_attached_when_its_result_is_back_and_never_else) {
    Config config = with({states_every(1, 32)});
    config.depth = 2;
    Scheduler scheduler(config);
    CHECK(!scheduler.submit(asked(1, tokens(12), 8)));
    const StepId step = scheduler.plan()->step;
    Snapshot now = scheduler.snapshot();
    CHECK(now.requests[0].groups[0].checkpoint_positions == (std::vector<Position>{12, 8, 4}));
    CHECK(now.groups[0].attached.empty());
    CHECK(scheduler.abort(1));
    (void)scheduler.settle(step, std::vector<Token>{5});
    now = scheduler.snapshot();
    CHECK(now.groups[0].attached.empty() && now.groups[0].free.size() == 32);
}

TEST(decodes_with_drafts_leave_no_checkpoints) {
    Config config = with({states_every(1, 32)});
    config.draft_tokens = 3;
    Scheduler scheduler(config);
    CHECK(!scheduler.submit(asked(1, tokens(6), 20)));
    CHECK(scheduler.plan()->states.size() == 1);
    (void)scheduler.settle(1, std::vector<Token>{50}, {}, std::vector<Position>{1});
    const StepPlan* decode = scheduler.plan();
    CHECK(decode->rows.at(0).start == 6 && decode->rows.at(0).count == 4);  // past 8
    CHECK(decode->states.empty());
}

TEST(the_checkpoint_that_a_request_starts_from_is_held_until_its_step_settles) {
    Config config = with({states_every(4, 6)});
    Scheduler scheduler(config);
    run(scheduler, 1, tokens(9), 1);
    CHECK(!scheduler.submit(asked(2, tokens(9), 2)));
    const StepPlan* plan = scheduler.plan();
    CHECK(plan->states.size() == 1 && plan->states[0].save == 0 && plan->states[0].position == 8);
    const PageId source = plan->states[0].page;
    Snapshot now = scheduler.snapshot();
    CHECK(now.requests[0].groups[0].source == source &&
          now.groups[0].references[static_cast<std::size_t>(source)] == 2);
    (void)scheduler.settle(plan->step, std::vector<Token>{5});
    now = scheduler.snapshot();
    CHECK(now.requests[0].groups[0].source == -1 && now.groups[0].idle == std::vector<PageId>{source});
}

TEST(checkpoints_leave_a_page_for_every_request) {
    Config config = with({states_every(1, 5)});  // for two requests, each with its source, and one checkpoint
    Scheduler scheduler(config);
    const Run first = run(scheduler, 1, tokens(30), 1);
    CHECK(positions(first, 1) == (std::vector<Position>{16, 28}));  // one a step, the last bound of each
    const Run second = run(scheduler, 2, tokens(30), 1);
    CHECK(second.cached == 28);
}

TEST(an_evicted_block_takes_what_hangs_at_it_along) {
    Config config = with({window_of(64, 64), states_every(1, 32)});
    config.num_pages = 10;
    Scheduler scheduler(config);
    run(scheduler, 1, tokens(30), 1);
    const std::size_t before = scheduler.snapshot().groups[0].attached.size();
    CHECK(before == 7);
    const Run second = run(scheduler, 2, tokens(30, 40), 1);
    const Snapshot now = scheduler.snapshot();
    CHECK(scheduler.stats().prefix_evictions > 0);
    const Run again =
        run(scheduler, 3, tokens(30, 40), 1);  // the nodes stand for other blocks, with other pages
    CHECK(again.cached == 28 && again.states.size() == 1);
    const auto same = [&](const StateEntry& saved) { return saved.page == again.states[0].page; };
    CHECK(std::ranges::any_of(second.states, same));
    for (int block = 0; block < 7; ++block) {
        CHECK(page_of(again, 1, block) == page_of(second, 1, block));
    }
    for (const GroupSnapshot& group : now.groups) {
        CHECK(std::set(group.attached_digests.begin(), group.attached_digests.end()).size() ==
              group.attached.size());
        for (const std::uint64_t digest : group.attached_digests) {
            CHECK(std::ranges::find(now.cached_digests, digest) != now.cached_digests.end());
        }
    }
    CHECK(now.groups[0].attached.size() + now.groups[0].free.size() == 64);
}

TEST(without_prefix_caching_windows_still_shrink_and_states_are_not_kept) {
    Config config = with({window_of(6, 32), states_every(1, 32)});
    config.prefix_caching = false;
    Scheduler scheduler(config);
    const Run only = run(scheduler, 1, tokens(40), 20);
    CHECK(only.states.empty() && blocks_of(only, 2) == std::vector<int>{0});
    const Snapshot now = scheduler.snapshot();
    CHECK(now.groups[0].free.size() == 32 && now.groups[1].free.size() == 32);
}

TEST(what_is_not_moved_with_a_request_keeps_it_here) {
    Scheduler scheduler(with({window_of(6, 32)}));
    Submission sent = asked(1, tokens(8), 1);
    sent.send = true;
    CHECK(scheduler.submit(sent)->code == RejectionCode::invalid && scheduler.idle());
    Submission received = asked(1, tokens(8), 1);
    received.receive = true;
    CHECK(scheduler.submit(received)->code == RejectionCode::invalid && scheduler.idle());
}

TEST(a_group_that_could_run_out_is_refused) {
    const auto problem = [](CacheGroup group) { return problem_with(with({group})).value_or(""); };
    const Config config = with({});
    CHECK(least_pages(config, window_of(6, 0)) == 2 * (2 + 2) + 4);
    CHECK(least_pages(config, states_every(1, 0)) == 5);
    CHECK(problem(window_of(6, 11)).starts_with("groups[0].num_pages is 11") &&
          problem(window_of(6, 11)).find("at least 12") != std::string::npos);
    CHECK(problem(window_of(6, 12)).empty());
    CHECK(problem(states_every(1, 4)).find("at least 5") != std::string::npos);
    CHECK(problem(states_every(1, 5)).empty());
    CHECK(problem(window_of(0, 40)).starts_with("groups[0].window is 0"));
    CHECK(problem(states_every(0, 40)).starts_with("groups[0].checkpoint_blocks is 0"));
    CHECK(problem(window_of(6, 1 << 30)).starts_with("groups[0].num_pages"));
    Config hosted = with({window_of(6, 12)});
    hosted.host_pages = 8;
    CHECK(problem_with(hosted).value_or("").starts_with("host_pages is 8; with groups it is 0"));
    Config deep = with({});
    deep.depth = 2;
    CHECK(least_pages(deep, window_of(6, 0)) == 2 * (2 + 2) + 3 * 4);
    deep.max_model_len = 12;
    CHECK(least_pages(deep, window_of(6, 0)) == 2 * 3);
}

}  // namespace
