#pragma once

#include <concepts>

namespace ts::scheduler {

class StepLedger;
class TransferLedger;

// Says that the step which wrote a page has come back. Only the ledger of steps makes one, when a step
// settles.
class SettleProof {
 public:
    SettleProof(const SettleProof&) = delete;
    SettleProof& operator=(const SettleProof&) = delete;
    SettleProof(SettleProof&&) = delete;
    SettleProof& operator=(SettleProof&&) = delete;
    ~SettleProof() = default;

 private:
    friend class StepLedger;
    SettleProof() = default;
};

// Says that a transfer has come to its end. Only the ledger of transfers makes one, when that is reported.
class TransferProof {
 public:
    TransferProof(const TransferProof&) = delete;
    TransferProof& operator=(const TransferProof&) = delete;
    TransferProof(TransferProof&&) = delete;
    TransferProof& operator=(TransferProof&&) = delete;
    ~TransferProof() = default;

 private:
    friend class TransferLedger;
    TransferProof() = default;
};

// Where pages are: pages of different memories are different types. `kWrittenBy` says what ends the writing
// of a page of it.
struct Device {  // keys and values of all positions
    template <class Proof>
    static constexpr bool kWrittenBy = std::same_as<Proof, SettleProof> || std::same_as<Proof, TransferProof>;
};
struct Window {  // keys and values of the last positions
    template <class Proof>
    static constexpr bool kWrittenBy = std::same_as<Proof, SettleProof>;
};
struct RunningState {  // what a linear attention has accumulated
    template <class Proof>
    static constexpr bool kWrittenBy = std::same_as<Proof, SettleProof>;
};
struct Host {  // copies of device pages
    template <class Proof>
    static constexpr bool kWrittenBy = std::same_as<Proof, TransferProof>;
};

template <class Proof, class Memory>
concept EndsWritingOf = Memory::template kWrittenBy<Proof>;

}  // namespace ts::scheduler
