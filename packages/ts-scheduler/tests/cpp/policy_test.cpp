#include <algorithm>
#include <cmath>
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

// A device that takes 4 ms + 60 us a prefill token + 40 us a row + 4 ns a KV token, give or take 2%.
struct Device {
    std::mt19937 random{7};
    double seconds(const StepShape& shape) {
        std::uniform_real_distribution<double> noise(0.98, 1.02);
        return noise(random) * exact(shape);
    }
    static double exact(const StepShape& shape) {
        return 4e-3 + 60e-6 * static_cast<double>(shape.prefill_tokens) +
               40e-6 * static_cast<double>(shape.decode_rows) + 4e-9 * static_cast<double>(shape.kv_tokens);
    }
};

TEST(the_cost_of_a_step_is_fitted_online) {
    Device device;
    StepCost cost;
    std::uniform_int_distribution<int> chunk(0, 512);
    std::uniform_int_distribution<int> rows(0, 128);
    std::uniform_int_distribution<int> context(1000, 50'000);
    for (int i = 0; i < 2000; ++i) {
        const std::int64_t decodes = rows(device.random);
        const StepShape shape{i % 3 == 0 ? chunk(device.random) : 0, decodes,
                              decodes * context(device.random)};
        cost.observe(shape, device.seconds(shape));
    }
    const auto within = [](double value, double expected, double part) {
        return std::abs(value - expected) <= part * expected;
    };
    CHECK(within(cost.fixed(), 4e-3, 0.1));
    CHECK(within(cost.per_prefill_token(), 60e-6, 0.05));
    CHECK(within(cost.per_decode_row(), 40e-6, 0.1));
    CHECK(within(cost.per_kv_token(), 4e-9, 0.05));
}

TEST(steps_that_do_not_vary_leave_a_usable_fit) {
    StepCost cost;
    const StepShape steady{0, 32, 32 * 4000};
    for (int i = 0; i < 500; ++i) {
        cost.observe(steady, Device::exact(steady));
    }
    CHECK(std::abs(cost.predict(steady) - Device::exact(steady)) < 0.02 * Device::exact(steady));
    CHECK(cost.fixed() >= 0 && cost.per_decode_row() >= 0 && cost.per_kv_token() >= 0);
}

TEST(the_chunk_is_the_largest_that_keeps_the_floor) {
    Device device;
    TpsFloor floor(50);                               // 20 ms
    CHECK(floor.chunk({0, 8, 8000}, 0, 512) == 512);  // nothing is known yet
    std::int64_t below = 0;
    std::int64_t steps = 0;
    double prefilled = 0;
    double possible = 0;
    for (int i = 0; i < 4000; ++i) {
        const std::int64_t rows = 16 + i / 100;
        StepShape shape{0, rows, rows * 20'000};
        const Position chunk = floor.chunk(shape, 10'000, 4096);
        shape.prefill_tokens = chunk;
        shape.kv_tokens += chunk > 0 ? 10'000 + chunk : 0;
        const double seconds = device.seconds(shape);
        floor.observe(shape, seconds);
        if (i >= 200) {
            ++steps;
            below += seconds > 0.020 ? 1 : 0;
            prefilled += chunk;
            possible += (0.020 - Device::exact({0, rows, rows * 20'000 + 10'000})) / 60.004e-6;
        }
    }
    CHECK(below * 100 <= steps);                     // under one step in a hundred is too long
    CHECK(prefilled >= 0.85 * possible);             // and little of what the floor allows is left unused
    CHECK(floor.chunk({0, 0, 0}, 0, 4096) == 4096);  // without decodes there is no floor to keep
}

TEST(a_floor_that_decodes_alone_would_break_keeps_newcomers_out) {
    Device device;
    TpsFloor floor(50);
    for (int i = 0; i < 300; ++i) {
        const std::int64_t rows = 1 + i % 64;
        const StepShape shape{i % 5 * 30, rows, rows * (1000 + i % 7 * 3000)};
        floor.observe(shape, device.seconds(shape));
    }
    CHECK(floor.admits({0, 16, 16 * 20'000}, 20'000));
    CHECK(!floor.admits({0, 150, 150 * 50'000}, 50'000));
    CHECK(floor.admits({0, 0, 0}, 50'000));
    CHECK(TpsFloor(0).admits({0, 5000, 5000 * 50'000}, 50'000));
}

}  // namespace
