#pragma once

#include <memory>
#include <utility>

#include "cache/block_table.h"
#include "cache/group_lease.h"
#include "request/slot.h"
#include "ts/scheduler/types.h"

namespace ts::scheduler {

// What an admitted request holds on the worker: a slot, pages, and how far they are filled. Destroying a
// lease gives everything back, so only states that nothing runs for may do it.
struct Lease {
    Lease(RequestId whose, Slot taken, Retention worth)
        : request(whose), slot(std::move(taken)), retention(worth) {}

    RequestId request;
    Slot slot;
    Retention retention;  // of the blocks that it publishes
    BlockTable blocks;
    GroupLease groups;     // goes first: whoever holds a page at a node holds the node's block
    Position planned = 0;  // positions computed once every step in flight has settled, all drafts accepted
    Position settled = 0;  // positions known to be computed
    int announced = 0;     // blocks that the worker has been told of
};

using LeasePtr = std::unique_ptr<Lease>;

}  // namespace ts::scheduler
