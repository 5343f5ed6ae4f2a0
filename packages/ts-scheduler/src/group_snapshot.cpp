#include "group_snapshot.h"

namespace ts::scheduler {
namespace {

template <class Memory>
[[nodiscard]] GroupSnapshot snapshot_of(const AttachedPool<Memory>& group, const PrefixIndex& index) {
    GroupSnapshot result;
    const Pool<Memory>& pool = group.pool;
    result.free = pool.free_pages();
    for (const PrefixIndex::Node node : group.attached.nodes()) {
        result.attached.push_back(group.attached.page(node));
        result.attached_digests.push_back(index.digest(node));
    }
    result.idle = pool.idle_pages().in_order();
    for (const PageId page : result.idle) {
        result.idle_retention.push_back(static_cast<int>(pool.retention(page)));
        result.idle_time_left.push_back(pool.idle_pages().time_left(page));
    }
    for (PageId page = 0; page < pool.total(); ++page) {
        result.references.push_back(pool.references(page));
    }
    return result;
}

[[nodiscard]] RequestGroupSnapshot snapshot_of(const WindowTable& table) {
    RequestGroupSnapshot result;
    result.first = table.first();
    result.pages = table.pages();
    return result;
}

[[nodiscard]] RequestGroupSnapshot snapshot_of(const StatePages& pages) {
    RequestGroupSnapshot result;
    result.pages = {pages.working()};
    result.source = pages.source() ? pages.source()->id() : -1;
    for (const Checkpoint& checkpoint : pages.checkpoints()) {
        result.checkpoints.push_back(checkpoint.page.id());
        result.checkpoint_positions.push_back(checkpoint.position);
    }
    return result;
}

// The entry of a group, by its number on the wire.
template <class T>
[[nodiscard]] T& at(std::vector<T>& entries, int number) {
    return entries[static_cast<std::size_t>(number) - 1];
}

}  // namespace

std::vector<RequestGroupSnapshot> snapshot_of(const GroupLease& lease, const CacheGroups& groups) {
    std::vector<RequestGroupSnapshot> result(lease.windows.size() + lease.states.size());
    for (std::size_t i = 0; i < lease.windows.size(); ++i) {
        at(result, groups.windows()[i].number) = snapshot_of(lease.windows[i]);
    }
    for (std::size_t i = 0; i < lease.states.size(); ++i) {
        at(result, groups.states()[i].number) = snapshot_of(lease.states[i]);
    }
    return result;
}

std::vector<GroupSnapshot> snapshot_of(const CacheGroups& groups, const PrefixIndex& index) {
    std::vector<GroupSnapshot> result(groups.windows().size() + groups.states().size());
    for (const WindowGroup& group : groups.windows()) {
        at(result, group.number) = snapshot_of(group, index);
    }
    for (const StateGroup& group : groups.states()) {
        at(result, group.number) = snapshot_of(group, index);
    }
    return result;
}

}  // namespace ts::scheduler
