#include "cache/cache_groups.h"

#include <algorithm>

#include "groups.h"
#include "invariant.h"

namespace ts::scheduler {

CacheGroups::CacheGroups(const Config& config, int nodes)
    : page_size_(config.page_size), reuse_(config.prefix_caching), drafts_(config.draft_tokens > 0) {
    int number = 0;
    for (const CacheGroup& group : config.groups) {
        ++number;
        if (group.kind == CacheGroup::Kind::window) {
            windows_.emplace_back(number, group.window, group.num_pages, nodes);
        } else {
            states_.emplace_back(number, group.checkpoint_blocks * config.page_size, group.num_pages, nodes,
                                 group.num_pages - 2 * usable_slots(config));
        }
    }
}

// Each group takes the bound back to where it can agree, until none has anything against it. A block that a
// window lacks is in the windows of all bounds from there to where it was missed, so none of those is tried.
int CacheGroups::agreed(std::span<const Found> prefix) const {
    const auto node = [&](int block) { return prefix[static_cast<std::size_t>(block)].node; };
    int bound = static_cast<int>(prefix.size());
    for (int before = -1; bound != before && bound > 0;) {
        before = bound;
        for (const StateGroup& group : states_) {
            while (bound > 0 && !group.attached.has(node(bound - 1))) {
                --bound;
            }
        }
        for (const WindowGroup& group : windows_) {
            const int first = group.first_block(bound * page_size_, page_size_);
            for (int block = bound; block-- > first;) {
                if (!group.attached.has(node(block))) {
                    bound = block;
                    break;
                }
            }
        }
    }
    return bound;
}

void CacheGroups::touch(std::span<const Found> prefix, Retention retention) {
    const int bound = static_cast<int>(prefix.size());
    if (bound == 0) {
        return;
    }
    for (WindowGroup& group : windows_) {
        for (int block = group.first_block(bound * page_size_, page_size_); block < bound; ++block) {
            group.attached.touch(prefix[static_cast<std::size_t>(block)].node, retention);
        }
    }
    for (StateGroup& group : states_) {
        group.attached.touch(prefix.back().node, retention);
    }
}

GroupLease CacheGroups::admit(std::span<const Found> prefix, Retention retention) {
    GroupLease lease;
    const int bound = static_cast<int>(prefix.size());
    lease.windows.reserve(windows_.size());
    lease.states.reserve(states_.size());
    for (const Found& found : prefix) {
        lease.nodes.push_back(found.node);
    }
    for (WindowGroup& group : windows_) {
        const int first = group.first_block(bound * page_size_, page_size_);
        WindowTable& table = lease.windows.emplace_back(first);
        for (int block = first; block < bound; ++block) {
            table.append(group.attached.share(prefix[static_cast<std::size_t>(block)].node, retention));
        }
    }
    for (StateGroup& group : states_) {
        std::optional<Shared<RunningState>> source;
        if (bound > 0) {  // held before the allocation, which might take it else
            source = group.attached.share(prefix.back().node, retention);
        }
        auto working = group.allocate();
        if (!working) {
            broken("a state group has a page for each slot: see least_pages()");
        }
        lease.states.emplace_back(*std::move(working), std::move(source));
    }
    return lease;
}

void CacheGroups::plan(GroupLease& lease, const GroupRow& row, StepPlan& plan) {
    for (std::size_t i = 0; i < windows_.size(); ++i) {
        plan_window(windows_[i], lease.windows[i], row, plan);
    }
    for (std::size_t i = 0; i < states_.size(); ++i) {
        plan_state(states_[i], lease.states[i], row, plan);
    }
}

void CacheGroups::plan_window(WindowGroup& group, WindowTable& table, const GroupRow& row, StepPlan& plan) {
    while (table.end() * page_size_ < row.end) {
        auto page = group.allocate();
        if (!page) {
            broken("a window group has pages for all slots: see least_pages()");
        }
        table.append(*std::move(page));
    }
    for (int block = table.announced(); block < table.end(); ++block) {
        plan.pages.push_back({row.slot, group.number, block, table.page(block)});
    }
    table.announce(table.end());
}

void CacheGroups::plan_state(StateGroup& group, StatePages& pages, const GroupRow& row, StepPlan& plan) {
    if (pages.announce()) {
        plan.pages.push_back({row.slot, group.number, 0, pages.working()});
        if (pages.source()) {
            plan.states.push_back({row.slot, group.number, pages.source()->id(), row.start, 0});
        }
    }
    if (!leaves_checkpoints(row.kind)) {
        return;
    }
    // The last ones first: where pages are short, they are worth the most. Beside the regular ones, a
    // prompt's last block bound from which an equal prompt can start.
    const Position last = (row.end - 1) / page_size_ * page_size_;
    if (row.kind == RowKind::last_chunk && last > row.start && last % group.every != 0) {
        checkpoint(group, pages, row, last, plan);
    }
    for (Position at = row.end / group.every * group.every; at > row.start; at -= group.every) {
        checkpoint(group, pages, row, at, plan);
    }
}

// Where a decode with drafts is in its sequence is known when it has settled: it leaves none.
bool CacheGroups::leaves_checkpoints(RowKind kind) const {
    return reuse_ && (kind != RowKind::decode || !drafts_);
}

void CacheGroups::checkpoint(StateGroup& group, StatePages& pages, const GroupRow& row, Position position,
                             StepPlan& plan) {
    auto place = group.room.take();
    if (!place) {
        return;
    }
    auto page = group.allocate();
    if (!page) {
        return;
    }
    plan.states.push_back({row.slot, group.number, page->id(), position, 1});
    pages.add({position, *std::move(page), *std::move(place)});
}

void CacheGroups::settle(GroupLease& lease, const SettleProof& proof, Position settled, Retention retention) {
    for (std::size_t i = 0; i < windows_.size(); ++i) {
        WindowTable& table = lease.windows[i];
        while (table.sealed() < std::ssize(lease.nodes)) {
            const Node node = lease.nodes[static_cast<std::size_t>(table.sealed())];
            table.publish(proof, windows_[i].attached, node, retention);
        }
        table.leave(windows_[i].first_block(settled, page_size_));
    }
    for (std::size_t i = 0; i < states_.size(); ++i) {
        lease.states[i].settle(proof, states_[i].attached, lease.nodes, settled, page_size_, retention);
    }
}

void CacheGroups::forget(Node node) {
    for (WindowGroup& group : windows_) {
        group.attached.forget(node);
    }
    for (StateGroup& group : states_) {
        group.attached.forget(node);
    }
}

}  // namespace ts::scheduler
