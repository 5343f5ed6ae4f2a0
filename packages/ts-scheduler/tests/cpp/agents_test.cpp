#include <algorithm>
#include <limits>
#include <map>

#include "check.h"
#include "driving.h"

// What the cache and the line do for agents: conversations that come back after a tool has run.
namespace {

using namespace ts::scheduler;

Config config_of(int pages) {
    return {.page_size = 4,
            .num_pages = pages,
            .max_num_seqs = 8,
            .max_model_len = 200,
            .vocab_size = 1000,
            .chunk_tokens = 64,
            .max_queued = 100,
            .growth_room = 0};
}

std::vector<Token> joined(std::vector<Token> a, const std::vector<Token>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

// Runs until the request has finished; the prompt tokens that it took from the cache.
std::int64_t run(Runner& runner, std::vector<Token> prompt, Submission terms = {}) {
    const std::int64_t before = runner.scheduler.stats().prefix_hit_tokens;
    const RequestId id = runner.submit(std::move(prompt), 1, terms);
    while (!runner.has_finished(id)) {
        CHECK(runner.step());
    }
    return runner.scheduler.stats().prefix_hit_tokens - before;
}

Submission session() {
    Submission terms;
    terms.session = true;
    return terms;
}

TEST(the_blocks_of_a_session_outlive_one_shot_prompts) {
    Runner runner(config_of(16));
    const auto conversation = tokens(16, 0);
    (void)run(runner, conversation, session());
    for (int i = 0; i < 5; ++i) {
        (void)run(runner, tokens(16, 100 + 20 * i));
    }
    CHECK(runner.scheduler.stats().prefix_evictions > 0);
    CHECK(run(runner, joined(conversation, tokens(4, 500))) == 16);
}

TEST(a_conversation_needs_no_announcement_after_its_second_turn) {
    Runner runner(config_of(16));
    const auto first = tokens(8, 0);
    const auto second = joined(first, tokens(8, 50));
    (void)run(runner, first);
    CHECK(run(runner, second) == 8);
    for (int i = 0; i < 5; ++i) {
        (void)run(runner, tokens(16, 100 + 20 * i));
    }
    CHECK(run(runner, joined(second, tokens(4, 500))) == 16);
}

TEST(a_shared_system_prompt_outlives_sessions) {
    Runner runner(config_of(16));
    const auto system = tokens(8, 0);
    (void)run(runner, joined(system, tokens(4, 50)));
    (void)run(runner, joined(system, tokens(4, 60)));
    for (int i = 0; i < 6; ++i) {
        (void)run(runner, tokens(16, 100 + 20 * i), session());
    }
    CHECK(run(runner, joined(system, tokens(4, 70))) == 8);
    CHECK(run(runner, joined(system, tokens(8, 50))) == 8);  // what hung below it has gone
}

TEST(nothing_is_kept_for_ever) {
    Runner runner(config_of(16));
    const auto system = tokens(8, 0);
    (void)run(runner, joined(system, tokens(4, 50)));
    (void)run(runner, joined(system, tokens(4, 60)));
    for (int i = 0; i < 40; ++i) {
        (void)run(runner, tokens(16, 100 + 20 * i), session());
    }
    CHECK(run(runner, joined(system, tokens(4, 70))) == 0);
}

TEST(a_salt_isolates_tenants) {
    Runner runner(config_of(16));
    Submission mine;
    mine.cache_salt = {.low = 5, .high = 6};
    CHECK(run(runner, tokens(12, 0), mine) == 0);
    CHECK(run(runner, tokens(12, 0)) == 0);
    CHECK(run(runner, tokens(12, 0), mine) == 8);
    mine.cache_salt = {.low = 5, .high = 7};
    CHECK(run(runner, tokens(12, 0), mine) == 0);
}

// Blocks go child before parent however retention, branching and time mix: the index stops the process if
// not.
TEST(any_mixture_evicts_leaves_first) {
    Runner runner(config_of(24));
    std::uint32_t random = 1;
    const auto draw = [&](std::size_t below) {
        random = random * 1664525U + 1013904223U;
        return static_cast<int>((random >> 16U) % below);
    };
    std::vector<std::vector<Token>> known{tokens(8, 0)};
    for (int i = 0; i < 3000; ++i) {
        auto prompt = known[static_cast<std::size_t>(draw(known.size()))];
        prompt.resize(std::min<std::size_t>(prompt.size(), static_cast<std::size_t>(4 + draw(40))));
        prompt = joined(std::move(prompt), tokens(1 + draw(12), draw(5) * 100));
        Submission terms;
        terms.session = draw(3) == 0;
        terms.priority = draw(3);
        terms.user = draw(4);
        (void)runner.submit(prompt, 1 + draw(9), terms);
        for (int steps = draw(6); steps > 0; --steps) {
            (void)runner.step();
        }
        known.push_back(prompt);
        if (known.size() > 30) {
            known.erase(known.begin());
        }
        while (runner.scheduler.stats().requests_waiting > 20) {
            CHECK(runner.step());
        }
    }
    while (runner.step()) {
    }
    CHECK(runner.scheduler.idle() && runner.scheduler.stats().prefix_evictions > 1000);
    const Snapshot end = runner.scheduler.snapshot();
    CHECK(end.free.size() + end.idle.size() == 24);
}

TEST(a_new_prompt_leaves_the_pages_of_a_waiting_session_alone) {
    Config config = config_of(16);
    config.new_prompt_wait_steps = 10;
    Runner runner(config);
    const auto conversation = tokens(32, 0);
    (void)run(runner, conversation, session());                  // 8 pages, idle
    const RequestId other = runner.submit(tokens(12, 100), 30);  // 3 pages
    CHECK(runner.step());
    const RequestId newcomer = runner.submit(tokens(24, 200));  // 6 pages, and 5 are nobody's
    for (int i = 0; i < 5; ++i) {
        CHECK(runner.step());
    }
    CHECK(runner.scheduler.stats().requests_waiting == 1);
    CHECK(run(runner, joined(conversation, tokens(2, 300))) == 32);  // it came back, passed, and hit
    CHECK(!runner.has_finished(newcomer) && !runner.has_finished(other));
}

TEST(a_new_prompt_waits_for_sessions_only_so_long) {
    Config config = config_of(16);
    config.new_prompt_wait_steps = 10;
    Runner runner(config);
    (void)run(runner, tokens(32, 0), session());
    (void)runner.submit(tokens(12, 100), 30);
    CHECK(runner.step());
    const RequestId newcomer = runner.submit(tokens(24, 200));
    int steps = 0;
    while (!runner.has_finished(newcomer)) {
        CHECK(runner.step() && ++steps <= 13);
    }
    CHECK(steps >= 10);
}

// It holds the pages that an equal prompt published first beside its own, and alone it wants for one.
TEST(a_request_alone_gives_back_the_equal_pages_that_it_holds) {
    Config config = config_of(5);
    config.page_size = 2;
    config.depth = 1;
    Runner runner(config);
    (void)runner.submit(tokens(3, 0), 2);
    const RequestId alone = runner.submit(tokens(3, 0), 8);
    for (int i = 0; i < 20 && !runner.has_finished(alone); ++i) {
        CHECK(runner.step());
    }
    CHECK(runner.has_finished(alone) && runner.scheduler.stats().preemptions == 1);
}

TEST(queue_caps_name_themselves) {
    Config config = config_of(64);
    config.max_queued_tokens = 20;
    config.max_queued_per_user = 2;
    Scheduler scheduler(config);
    CHECK(!scheduler.submit(asked(1, tokens(16, 0))));
    const auto too_many = scheduler.submit(asked(2, tokens(5, 0)));
    CHECK(too_many && too_many->code == RejectionCode::queue_full);
    CHECK(too_many->message.starts_with("max_queued_tokens"));
    CHECK(!scheduler.submit(asked(2, {1})));
    const auto user = scheduler.submit(asked(3, {1}));
    CHECK(user && user->message.starts_with("max_queued_per_user"));
    Submission another = asked(3, {1});
    another.user = 9;
    CHECK(!scheduler.submit(another));
    CHECK(scheduler.abort(2) && scheduler.stats().tokens_waiting == 17);
    CHECK(!scheduler.submit(asked(4, {1})));
}

TEST(the_cap_of_the_line_may_be_the_largest_there_is) {
    Config config = config_of(64);
    config.max_queued = std::numeric_limits<int>::max();
    Scheduler scheduler(config);
    CHECK(!scheduler.submit(asked(1, {1})));
}

// An answer that is ahead by all its credit, a quarter of a second, and two steps under way with a token
// each: what comes behind them has 0.45 s, less those.
TEST(the_floor_counts_the_tokens_of_all_steps_in_flight) {
    Config config = config_of(8000);
    config.vocab_size = 40'000;
    config.growth_room = 0;
    config.max_model_len = 31'000;
    config.chunk_tokens = 31'000;
    config.min_tps = 10;
    config.depth = 3;
    Scheduler scheduler(config);
    CHECK(!scheduler.submit(asked(1, tokens(8, 0), 900)));
    const auto settle = [&](StepId step, std::int64_t positions) {
        const std::chrono::nanoseconds took(5'000'000 + 20'000 * positions);
        CHECK(std::holds_alternative<std::span<const Output>>(
            scheduler.settle(step, std::vector<Token>(1, 1), took)));
    };
    CHECK(scheduler.plan() != nullptr);
    settle(1, 8);
    CHECK(!scheduler.submit(asked(2, tokens(2000, 0), 1)));  // what a prompt costs
    CHECK(scheduler.plan() != nullptr);
    const std::vector<Token> both(2, 1);
    CHECK(std::holds_alternative<std::span<const Output>>(
        scheduler.settle(2, both, std::chrono::nanoseconds(5'000'000 + 20'000 * 2001))));
    StepId step = 3;
    for (; step < 60; ++step) {
        CHECK(scheduler.plan() != nullptr);
        settle(step, 1);
    }
    CHECK(scheduler.plan() != nullptr && scheduler.plan() != nullptr);
    Submission prompt = asked(3, tokens(25'000, 0), 1);
    prompt.cache_salt.low = 1;
    CHECK(!scheduler.submit(prompt));
    const StepPlan* plan = scheduler.plan();
    CHECK(plan != nullptr && plan->rows.size() == 2);
    CHECK(plan->rows.back().count > 19'000);
}

TEST(the_floor_holds_in_the_scheduler) {
    Config config = config_of(4000);
    config.max_model_len = 4000;
    config.chunk_tokens = 2048;
    config.min_tps = 100;
    config.depth = 1;
    Scheduler scheduler(config);
    for (RequestId id = 1; id <= 4; ++id) {
        CHECK(!scheduler.submit(asked(id, tokens(8, 0), 900)));
    }
    struct Answer {
        int tokens = 0;
        double began = 0;
    };
    std::map<RequestId, Answer> answers;
    int late = 0;
    double now = 0;
    RequestId next = 5;
    for (int steps = 0; steps < 800; ++steps) {
        const StepPlan* plan = scheduler.plan();
        CHECK(plan != nullptr);
        std::int64_t nanoseconds = 2'000'000;  // 2 ms and 20 us a token
        std::size_t samples = 0;
        for (const Row& row : plan->rows) {
            nanoseconds += 20'000 * row.count;
            samples += (row.flags & kRowSample) != 0 ? 1 : 0;
        }
        now += 1e-9 * static_cast<double>(nanoseconds);
        const auto settled = scheduler.settle(plan->step, std::vector<Token>(samples, 1),
                                              std::chrono::nanoseconds(nanoseconds));
        CHECK(std::holds_alternative<std::span<const Output>>(settled));
        for (const Output& output : std::get<std::span<const Output>>(settled)) {
            Answer& answer = answers[output.request];
            if (answer.tokens++ == 0) {
                answer.began = now;
            }
            late += answer.tokens > 40 && answer.tokens - 1 < 0.99 * config.min_tps * (now - answer.began)
                        ? 1
                        : 0;
        }
        if (steps % 20 == 0) {
            Submission prompt = asked(next++, tokens(900, 0), 2);
            prompt.cache_salt.low = static_cast<std::uint64_t>(next);
            CHECK(!scheduler.submit(prompt));
        }
    }
    CHECK(late <= 8);
    CHECK(answers.at(1).tokens > 700);
    CHECK(scheduler.stats().prefill_tokens > 9000);
    CHECK(std::abs(scheduler.step_cost()[2] - 20e-6) < 4e-6);
}

// 2 ms, 20 us a token of a prompt and 1 ms a decode: eight decodes keep a floor of 100.
TEST(prompts_that_come_together_enter_as_far_as_their_decodes_keep_the_floor) {
    Config config = config_of(4000);
    config.max_model_len = 4000;
    config.max_num_seqs = 64;
    config.chunk_tokens = 2048;
    config.min_tps = 100;
    Scheduler scheduler(config);
    RequestId next = 1;
    const auto ask = [&](std::int64_t answer) {
        Submission prompt = asked(next++, tokens(40, 0), answer);
        prompt.cache_salt.low = static_cast<std::uint64_t>(next);
        CHECK(!scheduler.submit(prompt));
    };
    std::int64_t most = 0;
    for (int steps = 0; steps < 900; ++steps) {
        if (steps < 40 && steps % 10 == 0) {
            ask(1000);
        }
        for (int i = 0; steps == 200 && i < 20; ++i) {
            ask(100);
        }
        const StepPlan* plan = scheduler.plan();
        CHECK(plan != nullptr);
        std::int64_t decodes = 0;
        std::int64_t microseconds = 2000;
        std::size_t samples = 0;
        for (const Row& row : plan->rows) {
            decodes += row.count == 1 ? 1 : 0;
            microseconds += row.count == 1 ? 1000 : 20 * row.count;
            samples += (row.flags & kRowSample) != 0 ? 1 : 0;
        }
        most = std::max(most, decodes);
        const auto settled = scheduler.settle(plan->step, std::vector<Token>(samples, 1),
                                              std::chrono::microseconds(microseconds));
        CHECK(std::holds_alternative<std::span<const Output>>(settled));
    }
    CHECK(most >= 7 && most <= 8);
    CHECK(scheduler.stats().requests_waiting == 0);
}

}  // namespace
