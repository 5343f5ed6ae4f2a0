#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "ts/scheduler/types.h"

namespace ts::scheduler {

// What a request holds of one of Config::groups.
struct RequestGroupSnapshot {
    int first = 0;                    // of a window group: the block of the first page
    std::vector<PageId> pages;        // of a state group: the one that it works on
    PageId source = -1;               // the checkpoint that it started from, until its first step has settled
    std::vector<PageId> checkpoints;  // that its steps in flight write
    std::vector<Position> checkpoint_positions;
};

struct RequestSnapshot {
    RequestId id = 0;
    std::string_view state;
    SlotId slot = -1;  // -1 without one
    std::vector<PageId> pages;
    std::vector<PageId> aliases;   // cached pages held because an equal page of this request hangs below them
    std::vector<PageId> arriving;  // that a transfer fills
    std::vector<PageId> reserved;  // for what comes after those
    std::vector<PageId> loading;   // host pages that it fills them from
    Position planned = 0;
    Position settled = 0;
    Position tokens = 0;
    int retention = 0;  // what its blocks are worth once idle: 0 once, 1 session, 2 shared
    std::vector<RequestGroupSnapshot> groups;
};

// Where every page of one of Config::groups is.
struct GroupSnapshot {
    std::vector<PageId> free;
    std::vector<PageId> attached;                 // at a block of the prefix index, held by requests or not
    std::vector<std::uint64_t> attached_digests;  // of the prefix that ends with the block of each of them
    std::vector<PageId> idle;                     // as in Snapshot
    std::vector<int> idle_retention;
    std::vector<std::int64_t> idle_time_left;
    std::vector<int> references;
};

// A block with a copy on the host.
struct CopySnapshot {
    PageId host = -1;
    std::uint64_t digest = 0;
    PageId device = -1;  // -1: it is on the host alone
};

// The whole state, copied out: requests in arrival order, and where every page is.
struct Snapshot {
    std::vector<RequestSnapshot> requests;
    std::vector<PageId> free;
    std::vector<PageId> cached;                 // in the prefix index, held by requests or not
    std::vector<std::uint64_t> cached_digests;  // of the prefix that ends with each of them
    std::vector<PageId> idle;                   // in the prefix index alone, next to be evicted first
    std::vector<int> idle_retention;            // of each of them
    std::vector<std::int64_t> idle_time_left;   // of each of them: evictions until its turn
    std::vector<std::int64_t> idle_recent_for;  // of each of them: steps for which new prompts leave it alone
    std::vector<RequestId> line;                // who waits, the next first
    std::vector<int> references;                // by page
    std::vector<CopySnapshot> copies;
    std::vector<PageId> host_order;            // host pages that may be evicted, the next first
    std::vector<std::int64_t> host_time_left;  // of each of them: evictions of copies until its turn
    std::vector<int> host_references;          // by host page
    std::int64_t transfers = 0;                // under way
    int steps_in_flight = 0;
    bool admission_held = false;         // after a preemption, until somebody leaves
    bool admission_has_no_room = false;  // until something changes
    std::int64_t first_blocked_for = 0;  // steps for which the first has waited for sessions' pages
    std::vector<GroupSnapshot> groups;
};

}  // namespace ts::scheduler
