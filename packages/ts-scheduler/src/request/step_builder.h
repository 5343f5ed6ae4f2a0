#pragma once

#include <span>

#include "cache/cache_groups.h"
#include "request/lease.h"
#include "ts/scheduler/plan.h"

namespace ts::scheduler {

// Writes the rows of the step being planned. A row exists exactly when a request made the transition for it.
class StepBuilder {
 public:
    // `groups` is null where there is full attention alone.
    StepBuilder(StepPlan& plan, int page_size, CacheGroups* groups = nullptr)
        : plan_(&plan), page_size_(page_size), groups_(groups) {}

    // The next positions of a request, the first fed by the token that its slot sampled last.
    void decode(Lease& lease, Position count) {
        row(lease, count, kRowSample | kRowTokenOnDevice, RowKind::decode);
    }

    // The next tokens of a prompt; the last chunk samples.
    void chunk(Lease& lease, std::span<const Token> tokens, bool last) {
        plan_->tokens.insert(plan_->tokens.end(), tokens.begin(), tokens.end());
        row(lease, static_cast<Position>(tokens.size()), last ? kRowSample : 0,
            last ? RowKind::last_chunk : RowKind::chunk);
    }

 private:
    void row(Lease& lease, Position count, std::int32_t flags, RowKind kind) {
        if (lease.slot.announce()) {
            plan_->admits.push_back({lease.slot.id(), lease.request});
        }
        plan_->rows.push_back({lease.slot.id(), lease.planned, count, flags});
        lease.planned += count;
        while (lease.announced * page_size_ < lease.planned) {
            plan_->pages.push_back({lease.slot.id(), 0, lease.announced, lease.blocks.page(lease.announced)});
            ++lease.announced;
        }
        if (groups_ != nullptr) {
            const GroupRow row{lease.slot.id(), lease.planned - count, lease.planned, kind};
            groups_->plan(lease.groups, row, *plan_);
        }
    }

    StepPlan* plan_;
    int page_size_;
    CacheGroups* groups_;
};

}  // namespace ts::scheduler
