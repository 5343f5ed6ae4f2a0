#include "ts/scheduler/scheduler.h"

#include <stdexcept>
#include <string_view>

#include "check.h"
#include "driving.h"

namespace {

using namespace ts::scheduler;

Config small() {
    return {.page_size = 4,
            .num_pages = 16,
            .max_num_seqs = 4,
            .max_model_len = 64,
            .vocab_size = 100,
            .chunk_tokens = 8,
            .max_queued = 3};
}

RejectionCode rejection(Scheduler& scheduler, Submission submission) {
    const auto result = scheduler.submit(std::move(submission));
    CHECK(result.has_value());
    return result->code;
}

TEST(every_rejection_has_its_code) {
    Scheduler scheduler(small());
    CHECK(rejection(scheduler, {1, {}, 1, {}}) == RejectionCode::empty_prompt);
    CHECK(rejection(scheduler, {1, {1}, 0, {}}) == RejectionCode::invalid);
    CHECK(rejection(scheduler, {1, {-1}, 1, {}}) == RejectionCode::invalid);
    CHECK(rejection(scheduler, {1, {100}, 1, {}}) == RejectionCode::invalid);
    CHECK(rejection(scheduler, {1, {1}, 1, {100}}) == RejectionCode::invalid);
    CHECK(rejection(scheduler, {1, tokens(60), 5, {}}) == RejectionCode::too_long);
    CHECK(rejection(scheduler, {1, {1}, std::int64_t{1} << 62, {}}) == RejectionCode::too_long);
    CHECK(!scheduler.submit({1, tokens(60), 4, {}}));
    CHECK(rejection(scheduler, {1, {1}, 1, {}}) == RejectionCode::duplicate);
    for (RequestId id = 2; id <= 7; ++id) {
        CHECK(!scheduler.submit({id, {1}, 1, {}}));
    }
    CHECK(rejection(scheduler, {8, {1}, 1, {}}) == RejectionCode::queue_full);
    CHECK(rejection(scheduler,
                    {.id = 9, .prompt = {1}, .max_tokens = 1, .stop_tokens = {}, .priority = 1001}) ==
          RejectionCode::invalid);
    Config tight = small();
    tight.num_pages = 15;
    Scheduler other(tight);
    CHECK(rejection(other, {1, tokens(60), 2, {}}) == RejectionCode::never_fits);
    CHECK(!other.submit({1, tokens(60), 1, {}}));
}

TEST(sampling_is_one_value_or_refused) {
    Scheduler scheduler(small());
    const auto submit = [&](std::string sampling) {
        return scheduler.submit(
            {.id = 1, .prompt = {1}, .max_tokens = 1, .stop_tokens = {}, .sampling = sampling});
    };
    using namespace std::string_literals;
    for (const std::string& damaged :
         {"\x93"s, "\x93\x01\x02"s, "\x01\x02"s, "\xc1"s, "\xa5hey"s, "\xdd\xff\xff\xff\xff"s, "\xcb\x00"s,
          "\xc6"s, "\xdf\xff\xff\xff\xff\xc0"s, "\x81\xc0"s, "\xd8\x01"s, std::string(70'000, '\x01')}) {
        const auto rejection = submit(damaged);
        CHECK(rejection && rejection->code == RejectionCode::invalid &&
              rejection->message.starts_with("sampling"));
    }
    CHECK(!submit(
        "\x94\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\xd9\x01z\xc4\x02\x00\x00\x81\xa1k\xce\x00\x00\x00\x07"s));
}

TEST(a_bad_configuration_names_its_field_its_value_and_the_limits) {
    const auto refused = [](int Config::* field, int value, std::string_view sentence) {
        Config config = small();
        config.*field = value;
        CHECK(problem_with(config).value_or("none") == sentence);
    };
    refused(&Config::page_size, 0, "page_size is 0; it is from 1 to 1073741824");
    refused(&Config::num_pages, 1 << 29, "num_pages is 536870912; it is from 1 to 268435456");
    refused(&Config::max_num_seqs, 65537, "max_num_seqs is 65537; it is from 1 to 65536");
    refused(&Config::max_model_len, (1 << 30) + 1, "max_model_len is 1073741825; it is from 1 to 1073741824");
    refused(&Config::vocab_size, -1, "vocab_size is -1; it is from 1 to 2147483647");
    refused(&Config::chunk_tokens, (1 << 24) + 1, "chunk_tokens is 16777217; it is from 1 to 16777216");
    refused(&Config::max_queued_per_user, -1, "max_queued_per_user is -1; it is from 0 to 1073741824");
    refused(&Config::tool_wait_steps, -1, "tool_wait_steps is -1; it is from 0 to 1073741824");
    refused(&Config::depth, 4, "depth is 4; it is from 1 to 3");
    Config config = small();
    config.chunk_tokens = 0;
    try {
        const Scheduler scheduler(config);
        CHECK(false);
    } catch (const std::invalid_argument&) {
    }
}

TEST(results_that_do_not_fit_change_nothing) {
    Scheduler scheduler(small());
    CHECK(!scheduler.submit({1, tokens(3), 5, {}}));
    CHECK(settle_error(scheduler, 1, {}).code == SettleCode::unknown_step);
    CHECK(scheduler.plan()->step == 1);
    CHECK(scheduler.plan()->step == 2);
    CHECK(settle_error(scheduler, 2, {1}).code == SettleCode::out_of_order);
    CHECK(settle_error(scheduler, 3, {1}).code == SettleCode::unknown_step);
    CHECK(settle_error(scheduler, 1, {}).code == SettleCode::wrong_count);
    CHECK(settle_error(scheduler, 1, {100}).code == SettleCode::invalid_token);
    CHECK(settle(scheduler, 1, {5}).at(0).token == 5);
    CHECK(settle_error(scheduler, 1, {5}).code == SettleCode::unknown_step);
}

TEST(the_next_step_is_planned_while_one_runs_and_no_third) {
    Scheduler scheduler(small());
    CHECK(!scheduler.submit({1, tokens(3), 5, {}}));
    CHECK(scheduler.plan()->rows.at(0).flags == kRowSample);
    const StepPlan* next = scheduler.plan();
    CHECK(next->rows.at(0).flags == (kRowSample | kRowTokenOnDevice) && next->tokens.empty());
    CHECK(next->rows.at(0).start == 3);
    CHECK(scheduler.plan() == nullptr);
}

TEST(no_row_is_planned_past_the_length) {
    Scheduler scheduler(small());
    CHECK(!scheduler.submit({1, tokens(3), 2, {}}));
    CHECK(scheduler.plan() != nullptr && scheduler.plan() != nullptr);
    CHECK(!settle(scheduler, 1, {5}).at(0).finish);
    CHECK(scheduler.plan() == nullptr);
    CHECK(settle(scheduler, 2, {6}).at(0).finish == FinishReason::length);
    CHECK(scheduler.idle());
}

TEST(decodes_come_first_and_prompts_share_the_rest_in_arrival_order) {
    Scheduler scheduler(small());
    CHECK(!scheduler.submit({1, tokens(3), 9, {}}));
    CHECK(scheduler.plan() != nullptr);
    settle(scheduler, 1, {5});
    CHECK(!scheduler.submit({2, tokens(9, 20), 9, {}}));
    CHECK(!scheduler.submit({3, tokens(9, 40), 9, {}}));
    const StepPlan* mixed = scheduler.plan();
    CHECK(mixed->rows.size() == 2 && mixed->rows[0].count == 1 && mixed->rows[1].count == 7);
    CHECK(mixed->tokens == tokens(7, 20));
    const StepPlan* rest = scheduler.plan();
    CHECK(rest->rows.size() == 3 && rest->rows[1].count == 2 && rest->rows[1].flags == kRowSample);
    CHECK(rest->rows[2].count == 5 && rest->rows[2].flags == 0);
}

TEST(a_full_hit_still_computes_the_last_block) {
    Scheduler scheduler(small());
    for (RequestId id = 1; id <= 2; ++id) {
        CHECK(!scheduler.submit({id, tokens(8), 1, {}}));
        const StepPlan* plan = scheduler.plan();
        CHECK(plan->rows.at(0).start == (id == 1 ? 0 : 4));
        const auto outputs = settle(scheduler, plan->step, {50});
        CHECK(outputs.at(0).cached_tokens == (id == 1 ? 0 : 4));
    }
    CHECK(scheduler.stats().prefix_query_tokens == 16 && scheduler.stats().prefix_hit_tokens == 4);
}

TEST(nothing_is_hit_before_its_result_is_back) {
    Scheduler scheduler(small());
    CHECK(!scheduler.submit({1, tokens(8), 1, {}}));
    CHECK(scheduler.plan() != nullptr);
    CHECK(!scheduler.submit({2, tokens(8), 1, {}}));
    CHECK(scheduler.plan()->rows.at(0).start == 0);
    CHECK(scheduler.snapshot().cached.empty());
}

TEST(an_aborted_prompt_is_not_published_by_the_step_it_left) {
    Scheduler scheduler(small());
    CHECK(!scheduler.submit({1, tokens(8), 1, {}}));
    const StepId step = scheduler.plan()->step;
    CHECK(scheduler.abort(1) && !scheduler.abort(1) && !scheduler.idle());
    CHECK(settle(scheduler, step, {5}).empty());
    CHECK(scheduler.idle() && scheduler.snapshot().cached.empty() && scheduler.stats().pages_used == 0);
}

TEST(without_prefix_caching_nothing_is_kept) {
    Config config = small();
    config.prefix_caching = false;
    Scheduler scheduler(config);
    for (RequestId id = 1; id <= 2; ++id) {
        CHECK(!scheduler.submit({id, tokens(8), 1, {}}));
        const StepPlan* plan = scheduler.plan();
        CHECK(plan->rows.at(0).start == 0);
        settle(scheduler, plan->step, {50});
    }
    CHECK(scheduler.snapshot().free.size() == 16);
}

TEST(the_youngest_gives_way_and_comes_back_first) {
    Config config = small();
    config.num_pages = 4;
    config.max_model_len = 16;
    config.depth = 1;
    config.prefix_caching = false;
    Scheduler scheduler(config);
    CHECK(!scheduler.submit({1, tokens(4), 9, {}}) && !scheduler.submit({2, tokens(4), 9, {}}));
    CHECK(!scheduler.submit({3, tokens(4), 9, {}}));
    std::vector<RequestId> finished;
    for (int i = 0; i < 100 && !scheduler.idle(); ++i) {
        const StepPlan* plan = scheduler.plan();
        CHECK(plan != nullptr);
        std::vector<Token> sampled;
        for (const Row& row : plan->rows) {
            if ((row.flags & kRowSample) != 0) {
                sampled.push_back(1);
            }
        }
        for (const Output& output : settle(scheduler, plan->step, sampled)) {
            if (output.finish) {
                finished.push_back(output.request);
            }
        }
    }
    CHECK(finished == (std::vector<RequestId>{1, 2, 3}));
    CHECK(scheduler.stats().preemptions >= 1 && scheduler.stats().preemptions <= 2);
}

TEST(more_slots_than_step_tokens_do_not_overfill_a_step) {
    Config config = small();
    config.chunk_tokens = 2;
    Scheduler scheduler(config);
    for (RequestId id = 1; id <= 3; ++id) {
        CHECK(!scheduler.submit({id, {1}, 4, {}}));
    }
    CHECK(scheduler.plan()->rows.size() == 2);
    CHECK(scheduler.plan()->rows.size() == 2);
}

}  // namespace
