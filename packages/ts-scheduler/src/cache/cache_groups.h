#pragma once

#include <deque>
#include <span>
#include <vector>

#include "cache/attachments.h"
#include "cache/checkpoint_room.h"
#include "cache/group_lease.h"
#include "ts/scheduler/config.h"
#include "ts/scheduler/plan.h"

namespace ts::scheduler {

struct WindowGroup : AttachedPool<Window> {
    WindowGroup(int number_, Position window_, int num_pages, int nodes)
        : AttachedPool(num_pages, nodes), number(number_), window(window_) {}

    // The first block that a position after `settled` tokens attends to.
    [[nodiscard]] int first_block(Position settled, int page_size) const {
        return settled < window ? 0 : (settled - window + 1) / page_size;
    }

    int number;  // on the wire
    Position window;
};

struct StateGroup : AttachedPool<RunningState> {
    StateGroup(int number_, Position every_, int num_pages, int nodes, int checkpoints)
        : AttachedPool(num_pages, nodes), number(number_), every(every_), room(checkpoints) {}

    int number;
    Position every;  // tokens from one checkpoint to the next
    CheckpointRoom room;
};

enum class RowKind : std::uint8_t { decode, chunk, last_chunk };

// One row of a step being planned, as far as the groups care.
struct GroupRow {
    SlotId slot;
    Position start;
    Position end;
    RowKind kind;
};

// The groups beside full attention. Their pages hang at the nodes of full attention's index, so there is one
// tree of prefixes, and a prefix counts as cached as far as all groups can go on from it.
class CacheGroups {
 public:
    using Node = PrefixIndex::Node;
    using Found = PrefixIndex::Found;

    // `nodes` are those of the index.
    CacheGroups(const Config& config, int nodes);

    // How many of a prefix's blocks every group can go on from. Only until the next allocation of any group.
    [[nodiscard]] int agreed(std::span<const Found> prefix) const;

    // Somebody waits for this prefix, on which all agree.
    void touch(std::span<const Found> prefix, Retention retention);

    // The pages with which a request goes on from a prefix, on which all agree.
    [[nodiscard]] GroupLease admit(std::span<const Found> prefix, Retention retention);

    // Takes the pages that a row needs, and tells the worker of them.
    void plan(GroupLease& lease, const GroupRow& row, StepPlan& plan);

    // A request's row has come back: lists what it has completed, lets go of what it has left behind.
    void settle(GroupLease& lease, const SettleProof& proof, Position settled, Retention retention);

    void forget(Node node);

    [[nodiscard]] const std::deque<WindowGroup>& windows() const { return windows_; }
    [[nodiscard]] const std::deque<StateGroup>& states() const { return states_; }

 private:
    void plan_window(WindowGroup& group, WindowTable& table, const GroupRow& row, StepPlan& plan);
    void plan_state(StateGroup& group, StatePages& pages, const GroupRow& row, StepPlan& plan);
    [[nodiscard]] bool leaves_checkpoints(RowKind kind) const;
    void checkpoint(StateGroup& group, StatePages& pages, const GroupRow& row, Position position,
                    StepPlan& plan);

    int page_size_;
    bool reuse_;
    bool drafts_;
    std::deque<WindowGroup> windows_;  // deques: pools stay where they are
    std::deque<StateGroup> states_;
};

}  // namespace ts::scheduler
