#include <string>

#include "check.h"
#include "proof.h"
#include "request/book.h"
#include "request/dispatch.h"
#include "ts/scheduler/scheduler.h"

namespace {

using namespace ts::scheduler;

// In flight a state has no release, no preempt; at depth three no plan.
template <class S>
concept CanRelease = requires(S s) { std::move(s).release(FinishReason::stop); };
template <class S>
concept CanPreempt = requires(S s) { std::move(s).preempt(); };
template <class S>
concept CanPlan = HasOn<S, PlanChunk> || HasOn<S, PlanLastChunk> || HasOn<S, PlanDecode>;

static_assert(CanRelease<Decoding> && CanPreempt<Decoding> && CanPlan<Decoding>);
static_assert(!CanRelease<InFlight<Decoding, 1>> && !CanPreempt<InFlight<Decoding, 1>>);
static_assert(!CanRelease<InFlight<Prefilling, 2>> && !CanPreempt<InFlight<Prefilling, 2>>);
static_assert(CanPlan<InFlight<Decoding, 2>> && !CanPlan<InFlight<Decoding, 3>>);
static_assert(!CanPlan<Draining<1>> && !CanPlan<Yielding<1>> && !CanPlan<Finished>);
static_assert(!HasOn<InFlight<Prefilling, 1>, PlanDecode> && !HasOn<Decoding, PlanChunk>);
static_assert(!std::is_copy_constructible_v<State> && !std::is_move_constructible_v<State>);
static_assert(!std::is_assignable_v<State&, Finished> && !std::is_assignable_v<State&, Queued>);

struct Bench {
    KvCache cache{8, 2, true};
    SlotPool slots{2};
    StepPlan plan;
    StepBuilder step{plan, 2};
    Sequence sequence{{1, 2, 3}, 4, {9}, 2};

    void admit(State& state) {
        auto lease = std::make_unique<Lease>(RequestId{1}, *slots.take(), Retention::once);
        lease->blocks.append(std::move(*cache.allocate()));
        lease->blocks.append(std::move(*cache.allocate()));
        CHECK(!apply(state, Admit{std::move(lease)}));
    }

    void settle(State& state, Position count, std::vector<Token> tokens, Position drafts = 0) {
        with_proof([&](const SettleProof& proof) {
            CHECK(!apply(state, StepSettled{proof, sequence, &cache.index(), count, drafts, tokens}));
        });
    }
};

TEST(a_request_walks_the_table) {
    Bench bench;
    State state;
    bench.admit(state);
    CHECK(name_of(state) == "Prefilling");
    CHECK(!apply(state, PlanChunk{bench.step, bench.sequence.tokens().first(2)}));
    CHECK(name_of(state) == "InFlight<Prefilling, 1>");
    CHECK(!apply(state, PlanLastChunk{bench.step, bench.sequence.tokens().last(1)}));
    CHECK(name_of(state) == "InFlight<Decoding, 2>");
    bench.settle(state, 2, {});
    CHECK(name_of(state) == "InFlight<Decoding, 1>");
    bench.settle(state, 1, {5});
    CHECK(name_of(state) == "Decoding");
    CHECK(bench.plan.rows.size() == 2 && bench.plan.pages.size() == 2);
    CHECK(!apply(state, Abort{}));
    CHECK(name_of(state) == "Finished");
    CHECK(bench.cache.available() == 8);
}

TEST(pages_of_a_step_in_flight_outlive_an_abort) {
    Bench bench;
    State state;
    bench.admit(state);
    CHECK(!apply(state, PlanLastChunk{bench.step, bench.sequence.tokens()}));
    CHECK(!apply(state, Abort{}));
    CHECK(name_of(state) == "Draining<1>");
    CHECK(bench.cache.used() == 2);
    CHECK(apply(state, Abort{}).has_value());  // once is enough
    bench.settle(state, 3, {5});
    CHECK(name_of(state) == "Finished");
    CHECK(bench.cache.used() == 0 && bench.cache.index().pages().empty());
}

TEST(a_stop_discards_the_step_behind_it) {
    Bench bench;
    State state;
    bench.admit(state);
    CHECK(!apply(state, PlanLastChunk{bench.step, bench.sequence.tokens()}));
    CHECK(!apply(state, PlanDecode{bench.step, 1, {}}));
    bench.settle(state, 3, {9});
    CHECK(name_of(state) == "Draining<1>");
    CHECK(std::get<Draining<1>>(state).reason() == FinishReason::stop);
    const Position size = bench.sequence.size();
    bench.settle(state, 1, {5});
    CHECK(name_of(state) == "Finished" && bench.sequence.size() == size);
}

TEST(a_yielding_request_keeps_its_token_and_waits_again) {
    Bench bench;
    State state;
    bench.admit(state);
    CHECK(!apply(state, PlanLastChunk{bench.step, bench.sequence.tokens()}));
    CHECK(apply(state, Preempt{}).has_value());
    CHECK(!apply(state, Yield{}));
    CHECK(apply(state, PlanDecode{bench.step, 1, {}}).has_value());
    bench.settle(state, 3, {5});
    CHECK(name_of(state) == "Preempted" && bench.sequence.size() == 4 && bench.cache.available() == 8);
}

TEST(an_impossible_event_is_a_value_that_names_both) {
    State state;
    const auto impossible = apply(state, Preempt{});
    CHECK(impossible && impossible->state == "Queued" && impossible->event == "Preempt");
    CHECK(std::holds_alternative<Queued>(state));
}

Request& add(RequestBook& book, RequestId id, std::int64_t key = 0) {
    return book.add(
        std::make_unique<Request>(id, book.arrivals(), Turn{key, key}, Terms{}, Sequence({1}, 1, {}, 1)));
}

std::vector<RequestId> line_of(const RequestBook& book) {
    std::vector<RequestId> result;
    for (const Request* request : book.waiting()) {
        result.push_back(request->id);
    }
    return result;
}

TEST(requests_wait_by_turn_and_of_equal_turns_by_arrival) {
    RequestBook book;
    for (RequestId id = 10; id > 6; --id) {
        add(book, id);
    }
    add(book, 1, -5);
    CHECK(line_of(book) == (std::vector<RequestId>{1, 10, 9, 8, 7}));
    Request& first = *book.find(10);
    Request& second = *book.find(9);
    book.move_to_running(second);
    book.move_to_running(first);
    CHECK(book.running().front() == &first && book.after(first) == 1);
    book.move_to_waiting(second);
    book.move_to_waiting(first);
    CHECK(line_of(book) == (std::vector<RequestId>{1, 10, 9, 8, 7}));
    CHECK(book.preemptions() == 2 && book.waiting_tokens() == 5);
    book.remove(second);
    CHECK(book.waiting().size() == 4 && book.find(9) == nullptr && book.waiting_tokens() == 4);
}

TEST(the_worker_hears_of_the_end_of_what_it_was_told_of) {
    SlotPool slots(1);
    std::vector<SlotId> released;
    {
        auto slot = slots.take();
    }
    slots.drain_released(released);
    CHECK(released.empty());
    {
        auto slot = slots.take();
        CHECK(slot->announce() && !slot->announce());
        const Slot moved = *std::move(slot);
    }
    auto again = slots.take();
    slots.drain_released(released);
    CHECK(released.size() == 1);
    slots.drain_released(released);
    CHECK(released.empty());
}

TEST(the_diagram_has_every_rule) {
    const std::string diagram = transition_diagram();
    CHECK(diagram.starts_with("stateDiagram-v2\n"));
    CHECK(diagram.find("InFlight_Decoding_2 --> Draining_1 : StepSettled") != std::string::npos);
    CHECK(diagram.find("Queued --> Prefilling : Admit") != std::string::npos);
}

}  // namespace
