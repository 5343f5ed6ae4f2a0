#pragma once

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cache/attachments.h"
#include "cache/checkpoint_room.h"
#include "cache/page.h"
#include "ts/scheduler/types.h"

namespace ts::scheduler {

// A copy of a request's state that a step in flight writes.
struct Checkpoint {
    Position position;  // tokens that the state has taken in
    Writable<RunningState> page;
    CheckpointPlace place;
};

// One request's pages of a state group: the one that it works on, the checkpoint that it started from until
// its first step has settled, and the checkpoints that its steps in flight write.
class StatePages {
 public:
    using Node = PrefixIndex::Node;

    StatePages(Writable<RunningState> working, std::optional<Shared<RunningState>> source)
        : working_(std::move(working)), source_(std::move(source)) {}

    [[nodiscard]] PageId working() const { return working_.id(); }
    [[nodiscard]] const std::optional<Shared<RunningState>>& source() const { return source_; }
    [[nodiscard]] std::span<const Checkpoint> checkpoints() const { return checkpoints_; }

    // True the first time: the worker has to be told of the page and of what it starts from.
    [[nodiscard]] bool announce() { return !std::exchange(announced_, true); }

    void add(Checkpoint checkpoint) { checkpoints_.push_back(std::move(checkpoint)); }

    // A step has settled, and `settled` tokens have been taken in. Its checkpoints hang at the nodes that end
    // there; without nodes they are for nobody.
    void settle(const SettleProof& proof, Attachments<RunningState>& attached, std::span<const Node> nodes,
                Position settled, int page_size, Retention retention);

 private:
    Writable<RunningState> working_;
    std::optional<Shared<RunningState>> source_;
    std::vector<Checkpoint> checkpoints_;
    bool announced_ = false;
};

}  // namespace ts::scheduler
