#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string_view>
#include <vector>

#include "check.h"
#include "policy/tps_floor.h"
#include "policy/turns.h"
#include "policy/victim.h"

namespace {

using namespace ts::scheduler;

// A line kept by Turns alone: who is served when.
struct Line {
    struct Waiting {
        Turn turn;
        int arrival;
        UserId user;
        std::int64_t tokens;
        const char* name;
    };
    Turns turns{1000};
    std::vector<Waiting> waiting{};
    int arrivals = 0;

    void join(const char* name, UserId user, int priority, std::int64_t tokens) {
        waiting.push_back({turns.take(user, priority, tokens), arrivals++, user, tokens, name});
    }
    std::string_view serve() {
        const auto next = std::ranges::min_element(waiting, [](const Waiting& a, const Waiting& b) {
            return std::pair(a.turn.key, a.arrival) < std::pair(b.turn.key, b.arrival);
        });
        const Waiting served = *next;
        waiting.erase(next);
        turns.serve(served.user, served.turn, served.tokens);
        return served.name;
    }
};

TEST(one_user_is_served_in_order_of_arrival) {
    Line line;
    for (const char* name : {"a", "b", "c"}) {
        line.join(name, 0, 0, 500);
    }
    CHECK(line.serve() == "a");
    line.join("d", 0, 0, 1);
    CHECK(line.serve() == "b" && line.serve() == "c" && line.serve() == "d");
}

TEST(who_floods_the_line_waits_behind_itself) {
    Line line;
    for (int i = 0; i < 100; ++i) {
        line.join("flood", 1, 0, 500);
    }
    line.join("other", 2, 0, 500);
    (void)line.serve();
    CHECK(line.serve() == "other");
}

TEST(users_share_by_tokens_and_not_by_requests) {
    Line line;
    for (int i = 0; i < 40; ++i) {
        line.join("short", 1, 0, 100);
        line.join("long", 2, 0, 400);
    }
    int shorts = 0;
    for (int i = 0; i < 25; ++i) {
        shorts += line.serve() == "short" ? 1 : 0;
    }
    CHECK(shorts >= 19 && shorts <= 21);
}

TEST(a_level_of_priority_is_a_head_start_and_not_a_class) {
    Line line;
    line.join("low", 1, 0, 10);
    line.join("high", 2, 1, 10);
    CHECK(line.serve() == "high" && line.serve() == "low");
}

// Each round a new user comes with high priority: a class of its own would starve the low one for ever.
TEST(nobody_starves_under_a_stream_of_higher_priority) {
    for (const bool same_user : {true, false}) {
        Line line;
        line.join("low", 0, 0, 100);
        int passed = 0;
        for (;; ++passed) {
            line.join("high", same_user ? 1 : passed + 1, 3, 100);
            if (line.serve() == "low") {
                break;
            }
            CHECK(passed < 100);
        }
        CHECK(passed >= 29);  // it did go ahead: three head starts of 1000 tokens
    }
}

// Each of the requests costs less than a token for each user who waits.
TEST(nobody_starves_behind_many_short_requests) {
    Line line;
    for (UserId user = 1; user <= 64; ++user) {
        line.join("short", user, 1, 8);
    }
    line.join("low", 0, 0, 8);
    int passed = 0;
    for (UserId user = 100; line.serve() != "low"; ++user, ++passed) {
        line.join("short", user, 1, 8);
        CHECK(passed < 20'000);
    }
    CHECK(passed > 1000);  // a head start of 1000 tokens for each of 65 users, by 8
}

TEST(users_who_have_gone_are_forgotten) {
    Line line;
    for (UserId user = 0; user < 10'000; ++user) {
        line.join("x", user, 0, 10);
        (void)line.serve();
    }
    CHECK(line.turns.users() < 3000);
}

TEST(the_victim_is_of_the_lowest_priority_and_loses_least) {
    const std::vector<Victim> same{{0, 10}, {0, 900}, {0, 30}, {0, 70}};
    CHECK(choose_victim(same) == 2);
    const std::vector<Victim> mixed{{-5, 1}, {0, 10}, {-1, 900}, {1, 5}};
    CHECK(choose_victim(mixed) == 2);  // never the first
    const std::vector<Victim> equal{{0, 10}, {0, 10}, {0, 10}};
    CHECK(choose_victim(equal) == 2);
    CHECK(!choose_victim(std::vector<Victim>{{0, 10}}));
}

// A device that takes 4 ms, 10 ms more with a prompt, 60 us a prefill token, 1 ns a pair, 40 us a row and 4
// ns a KV token, give or take 2%.
struct Device {
    static constexpr StepCost::Vector kTerms{4e-3, 10e-3, 60e-6, 1e-9, 40e-6, 4e-9};
    std::mt19937 random{7};
    double seconds(const StepShape& shape) {
        std::uniform_real_distribution<double> noise(0.98, 1.02);
        return noise(random) * exact(shape);
    }
    static double exact(const StepShape& shape) {
        return kTerms[0] + (shape.prefill_tokens > 0 ? kTerms[1] : 0) +
               kTerms[2] * static_cast<double>(shape.prefill_tokens) +
               kTerms[3] * static_cast<double>(shape.prefill_pairs) +
               kTerms[4] * static_cast<double>(shape.decode_rows) +
               kTerms[5] * static_cast<double>(shape.kv_tokens);
    }
};

StepShape step_of(std::int64_t rows, std::int64_t kv_tokens, Position start = 0, Position count = 0) {
    StepShape shape{.decode_rows = rows, .kv_tokens = kv_tokens};
    shape.add_chunk(start, count);
    return shape;
}

TEST(the_cost_of_a_step_is_fitted_online) {
    Device device;
    StepCost cost;
    std::uniform_int_distribution<int> chunk(1, 512);
    std::uniform_int_distribution<int> rows(0, 128);
    std::uniform_int_distribution<int> context(1000, 50'000);
    for (int i = 0; i < 4000; ++i) {
        const std::int64_t decodes = rows(device.random);
        const StepShape shape = step_of(decodes, decodes * context(device.random), context(device.random),
                                        i % 3 == 0 ? chunk(device.random) : 0);
        cost.observe(shape, device.seconds(shape));
    }
    const StepCost::Vector terms = cost.terms();
    for (std::size_t i = 0; i < terms.size(); ++i) {
        CHECK(std::abs(terms[i] - Device::kTerms[i]) <= 0.15 * Device::kTerms[i]);
    }
    const StepShape decodes = step_of(16, 160'000);
    const double fits = cost.tokens_within(0.060, decodes, 20'000);
    const double exact = Device::exact(step_of(16, 160'000, 20'000, static_cast<Position>(fits)));
    CHECK(std::abs(exact - 0.060) < 0.003);
    CHECK(cost.tokens_within(0.001, decodes, 0) == 0);
    CHECK(std::isinf(cost.tokens_within(std::numeric_limits<double>::infinity(), decodes, 0)));
}

TEST(steps_that_do_not_vary_leave_a_usable_fit) {
    StepCost cost;
    const StepShape steady = step_of(32, 32 * 4000);
    for (int i = 0; i < 500; ++i) {
        cost.observe(steady, Device::exact(steady));
    }
    CHECK(std::abs(cost.predict(steady) - Device::exact(steady)) < 0.02 * Device::exact(steady));
    CHECK(std::ranges::all_of(cost.terms(), [](double term) { return term >= 0; }));
}

TEST(prompts_get_what_the_floor_leaves_and_no_more) {
    Device device;
    constexpr double kLimit = 0.020;
    TpsFloor floor(1 / kLimit);
    CHECK(floor.chunk(step_of(8, 8000), 0, 512) == 512);  // nothing is known yet
    std::vector<Due> dues(16, 0);
    std::int64_t late = 0;
    std::int64_t tokens = 0;
    std::int64_t steps = 0;
    std::int64_t with_prompt = 0;
    double seconds = 0;
    for (int i = 0; i < 4000; ++i) {
        const auto rows = std::ssize(dues);
        floor.begin(0);
        for (const Due due : dues) {
            floor.expect(due, 0);
        }
        StepShape shape = step_of(rows, rows * 20'000);
        const Position chunk = floor.chunk(shape, 10'000, 4096);
        shape.add_chunk(10'000, chunk);
        const double took = device.seconds(shape);
        floor.observe(shape, took);
        if (i >= 600) {  // what was late while it learned has been made up for
            ++steps;
            with_prompt += chunk > 0 ? 1 : 0;
            seconds += took;
            tokens += rows;
            late += std::ranges::count_if(dues, [&](Due due) { return due < floor.first_token() - kLimit; });
        }
        for (Due& due : dues) {
            due = due > 0 ? floor.next_token(due) : floor.first_token();
        }
    }
    CHECK(late * 1000 <= tokens);  // under one token in a thousand comes late
    CHECK(seconds <= 1.005 * static_cast<double>(steps) * kLimit);  // the mean rate is above the floor
    CHECK(seconds >= 0.93 * static_cast<double>(steps) * kLimit);   // and prompts get what is left
    CHECK(with_prompt * 8 < steps);                                 // in few large chunks
    floor.begin(0);
    floor.expect(0, 1);
    CHECK(floor.chunk(step_of(8, 8000), 0, 512) == 0);   // a first token under way brings no credit yet
    CHECK(floor.chunk(step_of(0, 0), 0, 4096) == 4096);  // without decodes there is no floor to keep
}

TEST(each_accepted_token_moves_the_due_on_and_credit_has_an_end) {
    TpsFloor floor(100);
    CHECK(std::abs(floor.next_token(floor.first_token(), 3) - 0.04) < 1e-9);
    CHECK(std::abs(floor.next_token(floor.first_token()) - 0.02) < 1e-9);
    CHECK(floor.next_token(floor.first_token(), 33) == 0.25);
}

TEST(a_floor_that_one_answer_cannot_keep_is_none) {
    Device device;
    TpsFloor floor(1000);  // 1 ms, and the fixed cost alone is 4
    for (int i = 0; i < 100; ++i) {
        const StepShape shape = step_of(1 + i % 3, 1000 + i, 0, i % 4 * 50);
        floor.observe(shape, device.seconds(shape));
    }
    floor.begin(0);
    floor.expect(floor.first_token(), 0);
    CHECK(floor.chunk(step_of(1, 1000), 0, 512) == 512);
    CHECK(floor.admits(step_of(1, 1000), 100));
    CHECK(floor.chunk(step_of(2, 2000), 0, 512) == 0);
}

TEST(a_floor_that_decodes_alone_would_break_keeps_newcomers_out) {
    Device device;
    TpsFloor floor(50);
    for (int i = 0; i < 300; ++i) {
        const std::int64_t rows = 1 + i % 64;
        const StepShape shape = step_of(rows, rows * (1000 + i % 7 * 3000), 0, i % 5 * 30);
        floor.observe(shape, device.seconds(shape));
    }
    CHECK(floor.admits(step_of(16, 16 * 20'000), 20'000));
    CHECK(!floor.admits(step_of(150, 150 * 50'000), 50'000));
    CHECK(floor.admits(step_of(0, 0), 50'000));
    CHECK(TpsFloor(0).admits(step_of(5000, 5000 * 50'000), 50'000));
}

TEST(a_device_that_stopped_for_a_while_says_nothing_of_its_steps) {
    StepCost cost;
    StepShape step;
    step.add_decode(100);
    for (int i = 0; i < 100; ++i) {
        cost.observe(step, 0.01);
    }
    cost.observe(step, 9e9);
    for (int i = 0; i < 1000; ++i) {
        cost.observe(step, 0.01);
    }
    CHECK(cost.predict(step) < 0.011);
}

TEST(an_answer_makes_up_for_a_quarter_of_a_second_at_most) {
    TpsFloor floor(50);
    StepShape step;
    step.add_decode(100);
    const Due due = floor.first_token();
    floor.observe(step, 1000);
    CHECK(floor.next_token(due) > 999.7 && floor.next_token(due) < 1000);
}

}  // namespace
