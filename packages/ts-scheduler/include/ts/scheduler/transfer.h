#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ts/scheduler/types.h"

namespace ts::scheduler {

using TransferId = std::int64_t;

enum class TransferKind : std::uint8_t {
    store,    // device pages are copied to the host
    load,     // host pages are copied to the device
    receive,  // device pages are written by a peer
    send      // device pages are read by a peer
};

// One page of a transfer. `host` is -1 where a peer is the other side.
struct PagePair {
    PageId device;
    PageId host;
    friend bool operator==(const PagePair&, const PagePair&) = default;
};
static_assert(sizeof(PagePair) == 2 * sizeof(std::int32_t));

// Pages to be moved, in the order of their tokens where they belong to a request. Until the end is reported,
// with Scheduler::end_transfer(), neither side of it is written or reused by anybody else.
struct Transfer {
    TransferId id = 0;
    TransferKind kind = TransferKind::store;
    RequestId request = 0;  // 0: of no request
    Position tokens = 0;    // of the request, up to where its pages are filled when the transfer has ended
    std::vector<PagePair> pages;
};

enum class TransferCode : std::uint8_t { unknown_transfer };

// A report that fits no transfer under way. The scheduler is as it was before.
struct TransferError {
    TransferCode code;
    std::string message;
};

[[nodiscard]] std::string_view name_of(TransferKind kind);
[[nodiscard]] std::string_view name_of(TransferCode code);

}  // namespace ts::scheduler
