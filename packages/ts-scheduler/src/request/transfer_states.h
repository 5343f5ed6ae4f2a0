#pragma once

#include <string_view>
#include <utility>

#include "request/states.h"

namespace ts::scheduler {

// States of requests whose pages another party reads or writes. As with steps in flight there is no release()
// and no preempt() here: settle(), with the end of the transfer, is the only way out.

class YieldingArrival;
class DrainingArrival;

namespace detail {

// Pages are on their way into the lease.
class Arriving : public Holding {
 public:
    Arriving(LeasePtr lease, Arrival arrival) : Holding(std::move(lease)), arrival_(std::move(arrival)) {}
    [[nodiscard]] const Arrival& arrival() const { return arrival_; }

 protected:
    // Puts the pages where they belong. What has arrived counts as computed, and is published.
    void take_in(const TransferEnded& event) {
        std::move(arrival_).end(event.proof, held().blocks);
        if (!event.arrived) {
            return;
        }
        lease_->planned = lease_->settled = arrival_.until();
        if (event.index != nullptr) {
            lease_->blocks.publish(event.proof, *event.index, event.sequence,
                                   event.sequence.full_blocks(lease_->settled), lease_->retention);
        }
    }

    Arrival arrival_;  // NOLINT(misc-non-private-member-variables-in-classes): the states are the only users
};

}  // namespace detail

class LoadingFromHost : public detail::Arriving {
 public:
    static constexpr std::string_view kName = "LoadingFromHost";
    using Arriving::Arriving;
    [[nodiscard]] Prefilling settle(const TransferEnded& event) &&;
    [[nodiscard]] YieldingArrival yield() &&;
    [[nodiscard]] DrainingArrival drain(FinishReason reason) &&;
};

class ReceivingKv : public detail::Arriving {
 public:
    static constexpr std::string_view kName = "ReceivingKv";
    using Arriving::Arriving;
    [[nodiscard]] Prefilling settle(const TransferEnded& event) &&;
    [[nodiscard]] YieldingArrival yield() &&;
    [[nodiscard]] DrainingArrival drain(FinishReason reason) &&;
};

class YieldingArrival : public detail::Arriving {
 public:
    static constexpr std::string_view kName = "YieldingArrival";
    using Arriving::Arriving;
    [[nodiscard]] Preempted settle(const TransferEnded& event) &&;
    [[nodiscard]] DrainingArrival drain(FinishReason reason) &&;
};

class DrainingArrival : public detail::Arriving {
 public:
    static constexpr std::string_view kName = "DrainingArrival";
    DrainingArrival(LeasePtr lease, Arrival arrival, FinishReason reason)
        : Arriving(std::move(lease), std::move(arrival)), reason_(reason) {}
    [[nodiscard]] FinishReason reason() const { return reason_; }
    [[nodiscard]] Finished settle(const TransferEnded& event) &&;

 private:
    FinishReason reason_;
};

class SendingKv : public detail::Holding {
 public:
    static constexpr std::string_view kName = "SendingKv";
    using Holding::Holding;
    [[nodiscard]] static FinishReason reason() { return FinishReason::sent; }
    [[nodiscard]] Finished settle(const TransferEnded& event) &&;
};

inline LoadingFromHost Queued::load(Load event) && {
    return {std::move(event.lease), std::move(event.arrival)};
}
inline LoadingFromHost Preempted::load(Load event) && {
    return {std::move(event.lease), std::move(event.arrival)};
}
inline ReceivingKv Queued::receive(Receive event) && {
    return {std::move(event.lease), std::move(event.arrival)};
}
inline SendingKv Decoding::send() && { return SendingKv(std::move(lease_)); }

inline Prefilling LoadingFromHost::settle(const TransferEnded& event) && {
    take_in(event);
    return Prefilling(std::move(lease_));
}
inline YieldingArrival LoadingFromHost::yield() && { return {std::move(lease_), std::move(arrival_)}; }
inline DrainingArrival LoadingFromHost::drain(FinishReason reason) && {
    return {std::move(lease_), std::move(arrival_), reason};
}

inline Prefilling ReceivingKv::settle(const TransferEnded& event) && {
    take_in(event);
    return Prefilling(std::move(lease_));
}
inline YieldingArrival ReceivingKv::yield() && { return {std::move(lease_), std::move(arrival_)}; }
inline DrainingArrival ReceivingKv::drain(FinishReason reason) && {
    return {std::move(lease_), std::move(arrival_), reason};
}

inline Preempted YieldingArrival::settle(const TransferEnded& event) && {
    take_in(event);
    lease_.reset();
    return {};
}
inline DrainingArrival YieldingArrival::drain(FinishReason reason) && {
    return {std::move(lease_), std::move(arrival_), reason};
}

inline Finished DrainingArrival::settle(const TransferEnded& event) && {
    take_in(event);
    lease_.reset();
    return {reason_};
}

inline Finished SendingKv::settle(const TransferEnded& /*event*/) && {
    lease_.reset();
    return {FinishReason::sent};
}

}  // namespace ts::scheduler
