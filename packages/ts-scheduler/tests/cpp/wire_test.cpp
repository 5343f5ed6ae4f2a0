#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"
#include "request/decode_order.h"
#include "ts/scheduler/scheduler.h"
#include "wire/packer.h"

// Steady decodes travel as bits.
namespace {

using namespace ts::scheduler;
using namespace std::string_view_literals;

constexpr std::int32_t kDecode = kRowSample | kRowTokenOnDevice;

std::vector<SlotId> slots_of(const StepPlan& plan) {
    std::vector<SlotId> result;
    for (const Row& row : plan.rows) {
        result.push_back(row.slot);
    }
    return result;
}

struct Decodes {
    StepPlan plan;
    std::vector<RowInFlight> in_flight{};

    explicit Decodes(const std::vector<std::pair<SlotId, Position>>& rows) {
        for (const auto& [slot, count] : rows) {
            plan.rows.push_back({slot, 10 * slot, count, kDecode});
            in_flight.push_back({nullptr, 100 * slot + count, true, false, count - 1});
        }
    }
};

TEST(decodes_go_by_slot_and_those_of_another_length_after_them) {
    DecodeOrder order(3);
    Decodes step({{9, 3}, {4, 1}, {0, 3}, {70, 3}, {2, 2}, {7, 3}});
    order.apply(step.plan, step.in_flight);
    CHECK(slots_of(step.plan) == (std::vector<SlotId>{0, 7, 9, 70, 4, 2}) && step.plan.implied == 4);
    CHECK(step.plan.decodes == "\x81\x02\x00\x00\x00\x00\x00\x00\x40"sv);
    for (std::size_t i = 0; i < step.plan.rows.size(); ++i) {
        const Row& row = step.plan.rows[i];
        CHECK(row.start == 10 * row.slot && step.in_flight[i].count == 100 * row.slot + row.count);
    }
    Decodes next({{4, 3}, {2, 3}});  // nothing is left of the step before
    order.apply(next.plan, next.in_flight);
    CHECK(slots_of(next.plan) == (std::vector<SlotId>{2, 4}) && next.plan.decodes == "\x14");
    Decodes none({});
    order.apply(none.plan, none.in_flight);
    CHECK(none.plan.rows.empty() && none.plan.decodes.empty() && none.plan.implied == 0);
}

TEST(a_step_of_decodes_alone_travels_as_bits) {
    constexpr int kRequests = 256;
    Scheduler scheduler({.page_size = 64,
                         .num_pages = 4 * kRequests,
                         .max_num_seqs = kRequests,
                         .max_model_len = 256,
                         .vocab_size = 100,
                         .chunk_tokens = 8 * kRequests,
                         .max_queued = kRequests});
    for (RequestId id = 0; id < kRequests; ++id) {
        Submission asked;
        asked.id = id;
        asked.prompt = {1, 2, 3};
        asked.max_tokens = 20;
        CHECK(!scheduler.submit(asked));
    }
    const StepPlan* plan = scheduler.plan();
    CHECK(plan->rows.size() == kRequests && plan->implied == 0 && plan->decodes.empty());
    const std::vector<Token> sampled(kRequests, 7);
    CHECK(std::holds_alternative<std::span<const Output>>(scheduler.settle(1, sampled)));
    plan = scheduler.plan();
    std::vector<SlotId> all(kRequests);
    std::iota(all.begin(), all.end(), 0);
    CHECK(slots_of(*plan) == all && plan->implied == kRequests && plan->pages.empty());
    CHECK(plan->decodes == std::string(kRequests / 8, '\xFF') && plan->message.size() == 43);
}

TEST(bytes_are_packed_in_their_shortest_form) {
    for (const auto& [size, head] : {std::pair(0, "\xC4\x00"sv),
                                     {255, "\xC4\xFF"sv},
                                     {256, "\xC5\x01\x00"sv},
                                     {65536, "\xC6\x00\x01\x00\x00"sv}}) {
        std::string out;
        const std::string bytes(static_cast<std::size_t>(size), 'x');
        Packer(out).binary(bytes);
        CHECK(out == std::string(head) + bytes);
    }
}

}  // namespace
