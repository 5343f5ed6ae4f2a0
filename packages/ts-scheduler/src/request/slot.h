#pragma once

#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "ts/scheduler/types.h"

namespace ts::scheduler {

class SlotPool;

// The right to one of the worker's slots; gives it back when it dies. Only SlotPool::take() makes one.
class [[nodiscard]] Slot {
 public:
    Slot(Slot&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)), id_(other.id_), announced_(other.announced_) {}
    Slot& operator=(Slot&&) = delete;
    Slot(const Slot&) = delete;
    Slot& operator=(const Slot&) = delete;
    ~Slot();

    [[nodiscard]] SlotId id() const { return id_; }

    // The worker is being told that it serves a request, and so has to hear of its end. False when it knows.
    [[nodiscard]] bool announce() { return !std::exchange(announced_, true); }

 private:
    friend class SlotPool;
    Slot(SlotPool& pool, SlotId id) : pool_(&pool), id_(id) {}

    SlotPool* pool_;
    SlotId id_;
    bool announced_ = false;
};

// The slots that are free, and those that the worker knows and has not been told the end of. A plan's
// releases come before its admissions, so a slot may be in both.
class SlotPool {
 public:
    explicit SlotPool(int slots) : total_(slots), free_(static_cast<std::size_t>(slots)) {
        std::iota(free_.rbegin(), free_.rend(), 0);
        released_.reserve(free_.size());
    }

    [[nodiscard]] int total() const { return total_; }
    [[nodiscard]] bool empty() const { return free_.empty(); }

    [[nodiscard]] std::optional<Slot> take() {
        if (free_.empty()) {
            return std::nullopt;
        }
        const SlotId id = free_.back();
        free_.pop_back();
        return Slot(*this, id);
    }

    // Moves the slots given back since the last call to `out`.
    void drain_released(std::vector<SlotId>& out) {
        out.assign(released_.begin(), released_.end());
        released_.clear();
    }

 private:
    friend class Slot;
    void give_back(SlotId id, bool announced) noexcept {
        free_.push_back(id);
        if (announced) {
            released_.push_back(id);
        }
    }

    int total_;
    std::vector<SlotId> free_;
    std::vector<SlotId> released_;
};

inline Slot::~Slot() {
    if (pool_ != nullptr) {
        pool_->give_back(id_, announced_);
    }
}

}  // namespace ts::scheduler
