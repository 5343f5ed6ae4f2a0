#pragma once

#include <optional>
#include <string_view>
#include <utility>
#include <variant>

#include "invariant.h"
#include "request/transitions.h"

namespace ts::scheduler {

// An event that a state has no transition for.
struct Impossible {
    std::string_view state;
    std::string_view event;
};

namespace detail {

// What a transition has made of a state takes its place.
struct Successor {
    template <class Next>
    static void assume(State& state, Next&& next) {
        state.emplace<std::remove_cvref_t<Next>>(std::forward<Next>(next));
    }
    template <class... Next>
    static void assume(State& state, std::variant<Next...>&& next) {
        std::visit([&](auto&& value) { assume(state, std::forward<decltype(value)>(value)); },
                   std::move(next));
    }
};

}  // namespace detail

// Takes an event to a state of unknown type: the transition where the table has one, else a typed rejection
// with the state as it was. Total: it compiles for every pair.
template <class Event>
[[nodiscard]] std::optional<Impossible> apply(State& state, Event event) {
    return std::visit(
        [&]<class S>(S& current) -> std::optional<Impossible> {
            if constexpr (detail::listed<S, Event>(kTransitions)) {
                detail::Successor::assume(state, on(std::move(current), std::move(event)));
                return std::nullopt;
            } else {
                return Impossible{S::kName, Event::kName};
            }
        },
        state);
}

// As apply(), where the caller has just checked the state.
template <class Event>
void must_apply(State& state, Event event) {
    invariant(!apply(state, std::move(event)), "the planner asks only for transitions that exist");
}

[[nodiscard]] inline std::string_view name_of(const State& state) {
    return std::visit([]<class S>(const S&) { return S::kName; }, state);
}

// What the request holds, or nullptr.
[[nodiscard]] inline const Lease* lease_of(const State& state) {
    return std::visit(
        []<class S>(const S& current) -> const Lease* {
            if constexpr (requires { current.lease(); }) {
                return &current.lease();
            } else {
                return nullptr;
            }
        },
        state);
}

// The ticket of the transfer that fills pages of the request, or nullptr.
[[nodiscard]] inline const Arrival* arrival_of(const State& state) {
    return std::visit(
        []<class S>(const S& current) -> const Arrival* {
            if constexpr (requires { current.arrival(); }) {
                return &current.arrival();
            } else {
                return nullptr;
            }
        },
        state);
}

// What the request holds if its state has a transition for the event, else nullptr.
template <class Event>
[[nodiscard]] const Lease* lease_if_takes(const State& state) {
    return std::visit(
        []<class S>(const S& current) -> const Lease* {
            if constexpr (detail::listed<S, Event>(kTransitions) && requires { current.lease(); }) {
                return &current.lease();
            } else {
                return nullptr;
            }
        },
        state);
}

}  // namespace ts::scheduler
