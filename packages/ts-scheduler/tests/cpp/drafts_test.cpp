#include <algorithm>
#include <string_view>
#include <utility>

#include "check.h"
#include "driving.h"
#include "ts/scheduler/wire.h"

// Decodes that reserve positions for drafts, and give back what was not accepted.
namespace {

using namespace ts::scheduler;

Config drafting(int drafts) {
    return {.page_size = 4,
            .num_pages = 16,
            .max_num_seqs = 4,
            .max_model_len = 64,
            .vocab_size = 100,
            .chunk_tokens = 16,
            .max_queued = 8,
            .draft_tokens = drafts};
}

// A request of so many prompt tokens, which no other has.
Submission prompted(RequestId id, int length, std::int64_t max_tokens, std::vector<std::int64_t> stops = {}) {
    return asked(id, tokens(length, static_cast<Token>(10 * id)), max_tokens, std::move(stops));
}

// One request of three prompt tokens, whose first token has come.
Scheduler decoding(const Config& config, std::int64_t max_tokens, std::vector<std::int64_t> stops = {}) {
    Scheduler scheduler(config);
    CHECK(!scheduler.submit(prompted(1, 3, max_tokens, std::move(stops))));
    settle(scheduler, scheduler.plan()->step, {50});
    return scheduler;
}

RequestSnapshot only(const Scheduler& scheduler) { return scheduler.snapshot().requests.at(0); }

TEST(a_decode_reserves_its_drafts_and_returns_those_not_accepted) {
    Scheduler scheduler = decoding(drafting(3), 20);
    const StepPlan* plan = scheduler.plan();
    CHECK(plan->rows.at(0).start == 3 && plan->rows[0].count == 4);
    CHECK(plan->pages.size() == 1 && only(scheduler).planned == 7);
    const auto outputs = settle(scheduler, 2, {51, 52}, {2});
    CHECK(outputs.size() == 2 && outputs[0].token == 51 && outputs[1].token == 52);
    const RequestSnapshot after = only(scheduler);
    CHECK(after.settled == 5 && after.planned == 5 && after.tokens == 6 && after.state == "Decoding");
    CHECK(scheduler.stats().decode_tokens == 2 && scheduler.stats().draft_tokens == 3);
    CHECK(scheduler.stats().accepted_draft_tokens == 1);
    const StepPlan* next = scheduler.plan();
    CHECK(next->rows.at(0).start == 5 && next->rows[0].count == 4);
    CHECK(next->pages.size() == 1);  // the one that ends at 8 was the request's already
}

TEST(behind_a_row_with_drafts_the_next_starts_at_the_latest_place) {
    Scheduler scheduler = decoding(drafting(3), 20);
    CHECK(scheduler.plan()->rows.at(0).start == 3);
    CHECK(scheduler.plan()->rows.at(0).start == 7);
    CHECK(only(scheduler).planned == 11);
    settle(scheduler, 2, {51}, {1});
    CHECK(only(scheduler).planned == 8 && only(scheduler).settled == 4);
    settle(scheduler, 3, {52, 53, 54, 55}, {4});
    CHECK(only(scheduler).planned == 8 && only(scheduler).settled == 8);
}

TEST(no_draft_leaves_the_length_and_a_request_waits_where_all_may_be_accepted) {
    Scheduler scheduler = decoding(drafting(3), 6);  // 3 + 6 - 1 positions are computed
    CHECK(scheduler.plan()->rows.at(0).count == 4);
    CHECK(scheduler.plan()->rows.at(0).count == 1);
    settle(scheduler, 2, {51}, {1});
    CHECK(scheduler.plan()->rows.at(0).count == 3);  // three positions have come back
    settle(scheduler, 3, {52}, {1});
    CHECK(scheduler.plan() == nullptr);
    const auto outputs = settle(scheduler, 4, {53, 54, 55}, {3});
    CHECK(outputs.size() == 3 && !outputs[0].finish && !outputs[1].finish);
    CHECK(outputs[2].finish == FinishReason::length && scheduler.idle());
}

TEST(what_follows_a_stop_among_the_accepted_is_dropped) {
    for (const bool ahead : {false, true}) {
        Scheduler scheduler = decoding(drafting(3), 20, {52});
        CHECK(scheduler.plan() != nullptr && (!ahead || scheduler.plan() != nullptr));
        const auto outputs = settle(scheduler, 2, {51, 52, 53, 54}, {4});
        CHECK(outputs.size() == 2 && outputs[1].finish == FinishReason::stop);
        CHECK(scheduler.idle() == !ahead);
        CHECK(scheduler.snapshot().cached.size() == 1);  // 10 11 12 50; positions 4 and 5 fill no block
        if (ahead) {
            CHECK(settle(scheduler, 3, {55, 56}, {2}).empty() && scheduler.idle());
        }
        CHECK(scheduler.stats().pages_used == 0);
    }
}

TEST(a_block_is_published_when_all_its_drafts_are_accepted) {
    Scheduler scheduler = decoding(drafting(4), 20);
    CHECK(scheduler.plan()->rows.at(0).count == 5);
    settle(scheduler, 2, {51, 52, 53, 54}, {4});
    CHECK(only(scheduler).settled == 7 && scheduler.snapshot().cached.size() == 1);
    CHECK(scheduler.plan() != nullptr);
    settle(scheduler, 3, {55}, {1});
    CHECK(only(scheduler).settled == 8 && scheduler.snapshot().cached.size() == 2);
}

TEST(an_impossible_report_is_refused_by_type_and_changes_nothing) {
    Scheduler scheduler(drafting(2));
    CHECK(!scheduler.submit(prompted(1, 3, 20)));
    settle(scheduler, scheduler.plan()->step, {50});
    CHECK(!scheduler.submit(prompted(2, 3, 20)));
    CHECK(scheduler.plan()->rows.size() == 2);  // a decode of three, and a prompt
    const RequestSnapshot before = only(scheduler);
    const auto code = [&](std::vector<Token> sampled, std::vector<Position> accepted) {
        const SettleError refused = settle_error(scheduler, 2, std::move(sampled), std::move(accepted));
        CHECK(refused.message.starts_with("step 2 has "));
        return refused.code;
    };
    CHECK(code({1, 2}, {1}) == SettleCode::wrong_accepted);
    CHECK(code({1, 2}, {1, 1, 1}) == SettleCode::wrong_accepted);
    CHECK(code({1}, {0, 1}) == SettleCode::wrong_accepted);
    CHECK(code({1}, {-1, 2}) == SettleCode::wrong_accepted);
    CHECK(code({1, 2, 3, 4, 5}, {4, 1}) == SettleCode::wrong_accepted);
    CHECK(code({1, 2, 3}, {1, 2}) == SettleCode::wrong_accepted);  // a prompt has no drafts
    CHECK(code({1, 2}, {INT32_MAX, INT32_MAX}) == SettleCode::wrong_accepted);
    CHECK(code({1, 2, 3}, {3, 1}) == SettleCode::wrong_count);
    CHECK(code({1, 2, 3, 4, 5}, {3, 1}) == SettleCode::wrong_count);
    CHECK(code({1, 2, 3, 4}, {}) == SettleCode::wrong_count);
    CHECK(code({1, kUnusable, 3}, {2, 1}) == SettleCode::wrong_accepted);
    CHECK(code({1, 100, 3}, {2, 1}) == SettleCode::invalid_token);
    CHECK(settle_error(scheduler, 3, {1, 2}, {1, 1}).code == SettleCode::unknown_step);
    const RequestSnapshot after = only(scheduler);
    CHECK(after.planned == before.planned && after.tokens == before.tokens && scheduler.stats().steps == 1);
    CHECK(settle(scheduler, 2, {1, 2, 3, 4}, {3, 1}).size() == 4);
}

TEST(every_settle_code_has_a_name) { CHECK(name_of(SettleCode::wrong_accepted) == "wrong_accepted"); }

TEST(an_unusable_first_token_ends_a_drafting_request_alone) {
    Scheduler scheduler = decoding(drafting(2), 20);
    CHECK(!scheduler.submit(prompted(2, 3, 2)));
    CHECK(scheduler.plan()->rows.size() == 2);
    const auto outputs = settle(scheduler, 2, {kUnusable, 60}, {1, 1});
    CHECK(outputs.size() == 2 && outputs[0].finish == FinishReason::unusable && !outputs[1].finish);
    CHECK(scheduler.stats().requests_running == 1 && scheduler.snapshot().cached.empty());
}

TEST(drafts_take_no_page_from_anybody) {
    Config config = drafting(4);
    config.num_pages = 5;
    config.max_model_len = 20;
    config.depth = 1;
    config.prefix_caching = false;
    Scheduler scheduler(config);
    CHECK(!scheduler.submit(prompted(1, 4, 9)) && !scheduler.submit(prompted(2, 4, 9)));
    CHECK(scheduler.plan()->rows.size() == 2);  // a page each, and three are left
    settle(scheduler, 1, {50, 60});
    const StepPlan* plan = scheduler.plan();
    CHECK(plan->rows.at(0).count == 4 && plan->rows.at(1).count == 4);  // a page each, and no second one
    CHECK(scheduler.stats().preemptions == 0 && scheduler.snapshot().free.size() == 1);
    settle(scheduler, 2, {51, 52, 53, 61, 62}, {3, 2});
    plan = scheduler.plan();
    CHECK(plan->rows.at(0).count == 1 && plan->rows.at(1).count == 2);  // to the ends of their pages
    CHECK(scheduler.stats().preemptions == 0 && scheduler.snapshot().free.size() == 1);
}

TEST(all_decodes_fit_into_a_step_with_their_drafts) {
    Scheduler scheduler(drafting(4));  // 16 tokens a step: three rows of five
    for (RequestId id = 1; id <= 4; ++id) {
        CHECK(!scheduler.submit(prompted(id, 1, 20)));
    }
    CHECK(scheduler.plan()->rows.size() == 3);
    const StepPlan* plan = scheduler.plan();
    CHECK(plan->rows.size() == 3 && plan->rows.at(2).count == 5);
}

TEST(a_configuration_with_too_many_drafts_names_the_field) {
    CHECK(problem_with(drafting(-1))->starts_with("draft_tokens is -1"));
    CHECK(problem_with(drafting(33))->starts_with("draft_tokens is 33"));
    CHECK(problem_with(drafting(16))->starts_with("chunk_tokens is 16"));
    CHECK(!problem_with(drafting(15)));
}

TEST(tokens_of_one_request_travel_as_one_output) {
    const std::vector<Output> outputs{
        {.request = 1, .token = 5, .cached_tokens = 4, .finish = std::nullopt},
        {.request = 1, .token = 6, .cached_tokens = 4, .finish = FinishReason::stop},
        {.request = 2, .token = kUnusable, .cached_tokens = 0, .finish = FinishReason::unusable},
        {.request = 3, .token = 7, .cached_tokens = 0, .finish = std::nullopt}};
    std::string message;
    encode_outputs(outputs, message);
    using namespace std::string_view_literals;
    CHECK(message == "\x92\xA6tokens\x92\x94\x01\x92\x05\x06\x04\xA4stop\x94\x03\x91\x07\x00\xC0"sv);
}

}  // namespace
