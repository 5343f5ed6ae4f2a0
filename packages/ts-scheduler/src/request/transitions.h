#pragma once

#include <array>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "request/states.h"
#include "request/transfer_states.h"

namespace ts::scheduler {

// One line of the table: in state `From`, `Event` leads to one of `To`.
template <class From, class Event, class... To>
struct Rule {};

template <class... Rules>
struct Table {
    consteval explicit Table(Rules... /*rules*/) {}
};

// The request state machine. The dispatcher, the diagram in docs/scheduler.md and the tests are made from it;
// a pair that it does not list has no on() and does not compile.
inline constexpr Table kTransitions{
    Rule<Queued, Admit, Prefilling>{},
    Rule<Queued, Abort, Finished>{},
    Rule<Queued, Load, LoadingFromHost>{},
    Rule<Queued, Receive, ReceivingKv>{},
    Rule<Preempted, Admit, Prefilling>{},
    Rule<Preempted, Load, LoadingFromHost>{},
    Rule<Preempted, Abort, Finished>{},

    Rule<Prefilling, PlanChunk, InFlight<Prefilling, 1>>{},
    Rule<Prefilling, PlanLastChunk, InFlight<Decoding, 1>>{},
    Rule<Prefilling, Preempt, Preempted>{},
    Rule<Prefilling, Abort, Finished>{},

    Rule<InFlight<Prefilling, 1>, PlanChunk, InFlight<Prefilling, 2>>{},
    Rule<InFlight<Prefilling, 1>, PlanLastChunk, InFlight<Decoding, 2>>{},
    Rule<InFlight<Prefilling, 1>, StepSettled, Prefilling>{},
    Rule<InFlight<Prefilling, 1>, Yield, Yielding<1>>{},
    Rule<InFlight<Prefilling, 1>, Abort, Draining<1>>{},
    Rule<InFlight<Prefilling, 2>, PlanChunk, InFlight<Prefilling, 3>>{},
    Rule<InFlight<Prefilling, 2>, PlanLastChunk, InFlight<Decoding, 3>>{},
    Rule<InFlight<Prefilling, 2>, StepSettled, InFlight<Prefilling, 1>>{},
    Rule<InFlight<Prefilling, 2>, Yield, Yielding<2>>{},
    Rule<InFlight<Prefilling, 2>, Abort, Draining<2>>{},
    Rule<InFlight<Prefilling, 3>, StepSettled, InFlight<Prefilling, 2>>{},
    Rule<InFlight<Prefilling, 3>, Yield, Yielding<3>>{},
    Rule<InFlight<Prefilling, 3>, Abort, Draining<3>>{},

    Rule<Decoding, PlanDecode, InFlight<Decoding, 1>>{},
    Rule<Decoding, Send, SendingKv>{},
    Rule<Decoding, Preempt, Preempted>{},
    Rule<Decoding, Abort, Finished>{},

    Rule<InFlight<Decoding, 1>, PlanDecode, InFlight<Decoding, 2>>{},
    Rule<InFlight<Decoding, 1>, StepSettled, Decoding, Finished>{},
    Rule<InFlight<Decoding, 1>, Yield, Yielding<1>>{},
    Rule<InFlight<Decoding, 1>, Abort, Draining<1>>{},
    Rule<InFlight<Decoding, 2>, PlanDecode, InFlight<Decoding, 3>>{},
    Rule<InFlight<Decoding, 2>, StepSettled, InFlight<Decoding, 1>, Draining<1>>{},
    Rule<InFlight<Decoding, 2>, Yield, Yielding<2>>{},
    Rule<InFlight<Decoding, 2>, Abort, Draining<2>>{},
    Rule<InFlight<Decoding, 3>, StepSettled, InFlight<Decoding, 2>, Draining<2>>{},
    Rule<InFlight<Decoding, 3>, Yield, Yielding<3>>{},
    Rule<InFlight<Decoding, 3>, Abort, Draining<3>>{},

    Rule<Yielding<1>, StepSettled, Preempted, Finished>{},
    Rule<Yielding<1>, Abort, Draining<1>>{},
    Rule<Yielding<2>, StepSettled, Yielding<1>, Draining<1>>{},
    Rule<Yielding<2>, Abort, Draining<2>>{},
    Rule<Yielding<3>, StepSettled, Yielding<2>, Draining<2>>{},
    Rule<Yielding<3>, Abort, Draining<3>>{},

    Rule<Draining<1>, StepSettled, Finished>{},
    Rule<Draining<2>, StepSettled, Draining<1>>{},
    Rule<Draining<3>, StepSettled, Draining<2>>{},

    Rule<LoadingFromHost, TransferEnded, Prefilling>{},
    Rule<LoadingFromHost, Yield, YieldingArrival>{},
    Rule<LoadingFromHost, Abort, DrainingArrival>{},
    Rule<ReceivingKv, TransferEnded, Prefilling>{},
    Rule<ReceivingKv, Yield, YieldingArrival>{},
    Rule<ReceivingKv, Abort, DrainingArrival>{},
    Rule<YieldingArrival, TransferEnded, Preempted>{},
    Rule<YieldingArrival, Abort, DrainingArrival>{},
    Rule<DrainingArrival, TransferEnded, Finished>{},
    Rule<SendingKv, TransferEnded, Finished>{},
};

template <class... T>
struct Types {};

using States =
    Types<Queued, Preempted, Prefilling, InFlight<Prefilling, 1>, InFlight<Prefilling, 2>,
          InFlight<Prefilling, 3>, Decoding, InFlight<Decoding, 1>, InFlight<Decoding, 2>,
          InFlight<Decoding, 3>, Yielding<1>, Yielding<2>, Yielding<3>, Draining<1>, Draining<2>, Draining<3>,
          LoadingFromHost, ReceivingKv, YieldingArrival, DrainingArrival, SendingKv, Finished>;
using Events = Types<Admit, Load, Receive, PlanChunk, PlanLastChunk, PlanDecode, StepSettled, Send,
                     TransferEnded, Preempt, Yield, Abort>;

template <class T>
struct AsVariant;
template <class... T>
struct AsVariant<Types<T...>> {
    using type = std::variant<T...>;
};

namespace detail {
struct Successor;
}  // namespace detail

// The state of one request. It is looked at like any variant; only a transition replaces it (see dispatch.h),
// so that what a state holds cannot be dropped by assigning another.
class State : public AsVariant<States>::type {
 public:
    State() = default;
    explicit(false) State(Queued queued) : variant(queued) {}
    State(State&&) = delete;
    State& operator=(State&&) = delete;
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    ~State() = default;

 private:
    friend struct detail::Successor;
    using variant::emplace;
    using variant::operator=;
    using variant::swap;
};

// --- on(State&&, Event) -> NextState
// ---------------------------------------------------------------------------

template <class S, class List>
inline constexpr bool kIsOneOf = false;
template <class S, class... T>
inline constexpr bool kIsOneOf<S, Types<T...>> = (std::is_same_v<S, T> || ...);

// A state handed over for good: not an lvalue.
template <class S>
concept Consumed = kIsOneOf<S, States>;

template <Consumed S>
[[nodiscard]] auto on(S&& state, Admit event) -> decltype(std::forward<S>(state).admit(std::move(event))) {
    return std::forward<S>(state).admit(std::move(event));
}
template <Consumed S>
[[nodiscard]] auto on(S&& state, Load event) -> decltype(std::forward<S>(state).load(std::move(event))) {
    return std::forward<S>(state).load(std::move(event));
}
template <Consumed S>
[[nodiscard]] auto on(S&& state, Receive event)
    -> decltype(std::forward<S>(state).receive(std::move(event))) {
    return std::forward<S>(state).receive(std::move(event));
}
template <Consumed S>
[[nodiscard]] auto on(S&& state, PlanChunk event) -> decltype(std::forward<S>(state).plan(event)) {
    return std::forward<S>(state).plan(event);
}
template <Consumed S>
[[nodiscard]] auto on(S&& state, PlanLastChunk event) -> decltype(std::forward<S>(state).plan(event)) {
    return std::forward<S>(state).plan(event);
}
template <Consumed S>
[[nodiscard]] auto on(S&& state, PlanDecode event)
    -> decltype(std::forward<S>(state).plan(std::move(event))) {
    return std::forward<S>(state).plan(std::move(event));
}
template <Consumed S>
[[nodiscard]] auto on(S&& state, const StepSettled& event) -> decltype(std::forward<S>(state).settle(event)) {
    return std::forward<S>(state).settle(event);
}
template <Consumed S>
[[nodiscard]] auto on(S&& state, Send /*event*/) -> decltype(std::forward<S>(state).send()) {
    return std::forward<S>(state).send();
}
template <Consumed S>
[[nodiscard]] auto on(S&& state, const TransferEnded& event)
    -> decltype(std::forward<S>(state).settle(event)) {
    return std::forward<S>(state).settle(event);
}
template <Consumed S>
[[nodiscard]] auto on(S&& state, Preempt /*event*/) -> decltype(std::forward<S>(state).preempt()) {
    return std::forward<S>(state).preempt();
}
template <Consumed S>
[[nodiscard]] auto on(S&& state, Yield /*event*/) -> decltype(std::forward<S>(state).yield()) {
    return std::forward<S>(state).yield();
}
template <Consumed S>
[[nodiscard]] auto on(S&& state, Abort /*event*/) -> decltype(std::forward<S>(state).abort()) {
    return std::forward<S>(state).abort();
}
template <Consumed S>
[[nodiscard]] auto on(S&& state, Abort /*event*/)
    -> decltype(std::forward<S>(state).release(FinishReason::abort)) {
    return std::forward<S>(state).release(FinishReason::abort);
}
template <Consumed S>
[[nodiscard]] auto on(S&& state, Abort /*event*/)
    -> decltype(std::forward<S>(state).drain(FinishReason::abort)) {
    return std::forward<S>(state).drain(FinishReason::abort);
}

// --- the table and on() say the same
// -----------------------------------------------------------------------------

template <class S, class E>
concept HasOn = requires(S state, E event) { on(std::move(state), std::move(event)); };

namespace detail {

template <class... To>
struct NextOf {
    using type = std::variant<To...>;
};
template <class To>
struct NextOf<To> {
    using type = To;
};

template <class S, class E, class... Rules>
consteval bool listed(const Table<Rules...>& /*table*/) {
    return ([]<class From, class Event, class... To>(std::type_identity<Rule<From, Event, To...>>) {
        return std::is_same_v<From, S> && std::is_same_v<Event, E>;
    }(std::type_identity<Rules>{}) ||
            ...);
}

template <class From, class Event, class... To>
consteval bool agrees(std::type_identity<Rule<From, Event, To...>> /*rule*/) {
    if constexpr (HasOn<From, Event>) {
        return std::is_same_v<decltype(on(std::declval<From>(), std::declval<Event>())),
                              typename NextOf<To...>::type>;
    } else {
        return false;
    }
}

template <class... Rules>
consteval bool every_rule_has_its_on(const Table<Rules...>& /*table*/) {
    return (agrees(std::type_identity<Rules>{}) && ...);
}

template <class S, class... E>
consteval bool no_stray_on(Types<E...> /*events*/) {
    return ((HasOn<S, E> == listed<S, E>(kTransitions)) && ...);
}

template <class... S>
consteval bool every_on_has_its_rule(Types<S...> /*states*/) {
    return (no_stray_on<S>(Events{}) && ...);
}

}  // namespace detail

static_assert(detail::every_rule_has_its_on(kTransitions), "a rule's on() is missing or leads elsewhere");
static_assert(detail::every_on_has_its_rule(States{}), "an on() is not in the table");

}  // namespace ts::scheduler
