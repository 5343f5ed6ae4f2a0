#pragma once

#include <array>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "invariant.h"
#include "request/events.h"
#include "request/lease.h"
#include "ts/scheduler/config.h"
#include "ts/scheduler/event.h"

namespace ts::scheduler {

// Request states: separate types, each owning exactly what a request in it holds. Every member function that
// leaves a state consumes it. What a state has no member for cannot be asked of it.
//
//   Queued, Preempted          nothing
//   Prefilling, Decoding       a lease, and nothing in flight: may be planned, preempted, released
//   InFlight<S, 1 to 3>        a lease that a running step uses: settle() is the only way back to S
//   Yielding<1 to 3>           as in flight, on the way to Preempted
//   Draining<1 to 3>           as in flight, already finished for the client
//   LoadingFromHost, ReceivingKv   a lease, and the ticket of a transfer that fills pages of it
//   YieldingArrival, DrainingArrival   as these, on the way to Preempted, or already finished for the client
//   SendingKv                  a lease that a peer reads, finished for the client here
//   Finished                   a reason

template <class S, int Depth>
class InFlight;
template <int Depth>
class Yielding;
template <int Depth>
class Draining;
class Prefilling;
class Decoding;
class LoadingFromHost;
class ReceivingKv;

struct Finished {
    static constexpr std::string_view kName = "Finished";
    FinishReason reason;
};

struct Queued {
    static constexpr std::string_view kName = "Queued";
    [[nodiscard]] Prefilling admit(Admit event) &&;
    [[nodiscard]] LoadingFromHost load(Load event) &&;
    [[nodiscard]] ReceivingKv receive(Receive event) &&;
    [[nodiscard]] Finished abort() && { return {FinishReason::abort}; }
};

// Was running, gave its pages back, and starts over with the tokens that it has.
struct Preempted {
    static constexpr std::string_view kName = "Preempted";
    [[nodiscard]] Prefilling admit(Admit event) &&;
    [[nodiscard]] LoadingFromHost load(Load event) &&;
    [[nodiscard]] Finished abort() && { return {FinishReason::abort}; }
};

namespace detail {

using NamesByDepth = std::array<std::string_view, kMaxDepth>;
inline constexpr std::array<NamesByDepth, 2> kInFlightNames{
    {{"InFlight<Prefilling, 1>", "InFlight<Prefilling, 2>", "InFlight<Prefilling, 3>"},
     {"InFlight<Decoding, 1>", "InFlight<Decoding, 2>", "InFlight<Decoding, 3>"}}};
inline constexpr NamesByDepth kYieldingNames{"Yielding<1>", "Yielding<2>", "Yielding<3>"};
inline constexpr NamesByDepth kDrainingNames{"Draining<1>", "Draining<2>", "Draining<3>"};

// A lease that can be looked at. Who may take it out is up to the derived state.
class Holding {
 public:
    explicit Holding(LeasePtr lease) : lease_(std::move(lease)) {}
    [[nodiscard]] const Lease& lease() const { return *lease_; }

 protected:
    // A state that has been left holds nothing.
    [[nodiscard]] Lease& held() {
        invariant(lease_ != nullptr, "a state is left once");
        return *lease_;
    }
    LeasePtr lease_;  // NOLINT(misc-non-private-member-variables-in-classes): the states are the only users
};

}  // namespace detail

class Prefilling : public detail::Holding {
 public:
    static constexpr std::string_view kName = "Prefilling";
    using Holding::Holding;
    [[nodiscard]] InFlight<Prefilling, 1> plan(PlanChunk event) &&;
    [[nodiscard]] InFlight<Decoding, 1> plan(PlanLastChunk event) &&;
    [[nodiscard]] Preempted preempt() &&;
    [[nodiscard]] Finished release(FinishReason reason) &&;
};

class SendingKv;

class Decoding : public detail::Holding {
 public:
    static constexpr std::string_view kName = "Decoding";
    using Holding::Holding;
    [[nodiscard]] InFlight<Decoding, 1> plan(PlanDecode event) &&;
    [[nodiscard]] SendingKv send() &&;
    [[nodiscard]] Preempted preempt() &&;
    [[nodiscard]] Finished release(FinishReason reason) &&;
};

// `Depth` steps of the request are in flight; when all have settled it is an S. Steps in flight may be
// joined by more, up to three, and no page can leave: there is no release() and no preempt() here.
template <class S, int Depth>
class InFlight : public detail::Holding {
    static_assert(Depth >= 1 && Depth <= kMaxDepth, "one to three steps are in flight");

 public:
    static constexpr std::string_view kName =
        detail::kInFlightNames[std::is_same_v<S, Decoding> ? 1 : 0][Depth - 1];
    using Holding::Holding;

    [[nodiscard]] InFlight<Prefilling, Depth + 1> plan(PlanChunk event) &&
        requires(Depth < kMaxDepth && std::is_same_v<S, Prefilling>);
    [[nodiscard]] InFlight<Decoding, Depth + 1> plan(PlanLastChunk event) &&
        requires(Depth < kMaxDepth && std::is_same_v<S, Prefilling>);
    [[nodiscard]] InFlight<Decoding, Depth + 1> plan(PlanDecode event) &&
        requires(Depth < kMaxDepth && std::is_same_v<S, Decoding>);

    // The result of the oldest step in flight: the only way back.
    [[nodiscard]] auto settle(const StepSettled& event) &&;

    [[nodiscard]] Yielding<Depth> yield() &&;
    [[nodiscard]] Draining<Depth> drain(FinishReason reason) &&;
};

template <int Depth>
class Yielding : public detail::Holding {
 public:
    static constexpr std::string_view kName = detail::kYieldingNames[Depth - 1];
    using Holding::Holding;
    [[nodiscard]] auto settle(const StepSettled& event) &&;
    [[nodiscard]] Draining<Depth> drain(FinishReason reason) &&;
};

template <int Depth>
class Draining : public detail::Holding {
 public:
    static constexpr std::string_view kName = detail::kDrainingNames[Depth - 1];
    Draining(LeasePtr lease, FinishReason reason) : Holding(std::move(lease)), reason_(reason) {}
    [[nodiscard]] FinishReason reason() const { return reason_; }
    // The result is nobody's: it is dropped, and its pages are not published.
    [[nodiscard]] auto settle(const StepSettled& event) &&;

 private:
    FinishReason reason_;
};

// --- leaving the resting states
// -------------------------------------------------------------------------------

inline Prefilling Queued::admit(Admit event) && { return Prefilling(std::move(event.lease)); }
inline Prefilling Preempted::admit(Admit event) && { return Prefilling(std::move(event.lease)); }

inline InFlight<Prefilling, 1> Prefilling::plan(PlanChunk event) && {
    event.step.chunk(held(), event.tokens, false);
    return InFlight<Prefilling, 1>(std::move(lease_));
}
inline InFlight<Decoding, 1> Prefilling::plan(PlanLastChunk event) && {
    event.step.chunk(held(), event.tokens, true);
    return InFlight<Decoding, 1>(std::move(lease_));
}
inline Preempted Prefilling::preempt() && {
    lease_.reset();
    return {};
}
inline Finished Prefilling::release(FinishReason reason) && {
    lease_.reset();
    return {reason};
}

namespace detail {

inline void decode(Lease& lease, PlanDecode& event) {
    for (WritablePage& page : event.pages) {
        lease.blocks.append(std::move(page));
    }
    event.step.decode(lease, event.count);
}

}  // namespace detail

inline InFlight<Decoding, 1> Decoding::plan(PlanDecode event) && {
    detail::decode(held(), event);
    return InFlight<Decoding, 1>(std::move(lease_));
}
inline Preempted Decoding::preempt() && {
    lease_.reset();
    return {};
}
inline Finished Decoding::release(FinishReason reason) && {
    lease_.reset();
    return {reason};
}

// --- more steps in flight
// -----------------------------------------------------------------------------------

template <class S, int Depth>
InFlight<Prefilling, Depth + 1> InFlight<S, Depth>::plan(PlanChunk event) &&
    requires(Depth < kMaxDepth && std::is_same_v<S, Prefilling>)
{
    event.step.chunk(held(), event.tokens, false);
    return InFlight<Prefilling, Depth + 1>(std::move(lease_));
}
template <class S, int Depth>
InFlight<Decoding, Depth + 1> InFlight<S, Depth>::plan(PlanLastChunk event) &&
    requires(Depth < kMaxDepth && std::is_same_v<S, Prefilling>)
{
    event.step.chunk(held(), event.tokens, true);
    return InFlight<Decoding, Depth + 1>(std::move(lease_));
}
template <class S, int Depth>
InFlight<Decoding, Depth + 1> InFlight<S, Depth>::plan(PlanDecode event) &&
    requires(Depth < kMaxDepth && std::is_same_v<S, Decoding>)
{
    detail::decode(held(), event);
    return InFlight<Decoding, Depth + 1>(std::move(lease_));
}

// --- a step comes back
// -----------------------------------------------------------------------------------------

namespace detail {

// Counts the row, takes its tokens up to one that ends the request, returns the positions of the other
// drafts, publishes the blocks that it completed.
inline Verdict absorb(Lease& lease, const StepSettled& event) {
    Verdict verdict = Verdict::go_on;
    Position unused = event.tokens.empty() ? 0 : event.drafts + 1;
    for (const Token token : event.tokens) {
        verdict = event.sequence.append(token);
        --unused;
        if (verdict != Verdict::go_on) {
            break;
        }
    }
    lease.settled += event.count - unused;
    lease.planned -= unused;
    if (event.index != nullptr) {
        lease.blocks.publish(event.proof, *event.index, event.sequence,
                             event.sequence.full_blocks(lease.settled), lease.retention,
                             event.groups == nullptr ? nullptr : &lease.groups.nodes);
    }
    if (event.groups != nullptr) {
        event.groups->settle(lease.groups, event.proof, lease.settled, lease.retention);
    }
    return verdict;
}

[[nodiscard]] inline FinishReason reason_of(Verdict verdict) {
    return verdict == Verdict::stop ? FinishReason::stop : FinishReason::length;
}

}  // namespace detail

template <class S, int Depth>
auto InFlight<S, Depth>::settle(const StepSettled& event) && {
    const Verdict verdict = detail::absorb(held(), event);
    if constexpr (std::is_same_v<S, Prefilling>) {  // no chunk before the last one samples
        if constexpr (Depth > 1) {
            return InFlight<Prefilling, Depth - 1>(std::move(lease_));
        } else {
            return Prefilling(std::move(lease_));
        }
    } else if constexpr (Depth > 1) {
        using Next = std::variant<InFlight<Decoding, Depth - 1>, Draining<Depth - 1>>;
        return verdict == Verdict::go_on
                   ? Next(InFlight<Decoding, Depth - 1>(std::move(lease_)))
                   : Next(Draining<Depth - 1>(std::move(lease_), detail::reason_of(verdict)));
    } else {
        using Next = std::variant<Decoding, Finished>;
        if (verdict == Verdict::go_on) {
            return Next(Decoding(std::move(lease_)));
        }
        lease_.reset();
        return Next(Finished{detail::reason_of(verdict)});
    }
}

template <int Depth>
auto Yielding<Depth>::settle(const StepSettled& event) && {
    const Verdict verdict = detail::absorb(held(), event);
    if constexpr (Depth > 1) {
        using Next = std::variant<Yielding<Depth - 1>, Draining<Depth - 1>>;
        return verdict == Verdict::go_on
                   ? Next(Yielding<Depth - 1>(std::move(lease_)))
                   : Next(Draining<Depth - 1>(std::move(lease_), detail::reason_of(verdict)));
    } else {
        using Next = std::variant<Preempted, Finished>;
        lease_.reset();
        return verdict == Verdict::go_on ? Next(Preempted{}) : Next(Finished{detail::reason_of(verdict)});
    }
}

template <int Depth>
auto Draining<Depth>::settle(const StepSettled& /*event*/) && {
    if constexpr (Depth > 1) {
        return Draining<Depth - 1>(std::move(lease_), reason_);
    } else {
        lease_.reset();
        return Finished{reason_};
    }
}

// --- no longer wanted while in flight
// ---------------------------------------------------------------------------

template <class S, int Depth>
Yielding<Depth> InFlight<S, Depth>::yield() && {
    return Yielding<Depth>(std::move(lease_));
}
template <class S, int Depth>
Draining<Depth> InFlight<S, Depth>::drain(FinishReason reason) && {
    return Draining<Depth>(std::move(lease_), reason);
}
template <int Depth>
Draining<Depth> Yielding<Depth>::drain(FinishReason reason) && {
    return Draining<Depth>(std::move(lease_), reason);
}

}  // namespace ts::scheduler
