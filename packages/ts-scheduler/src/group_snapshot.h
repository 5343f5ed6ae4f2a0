#pragma once

#include <vector>

#include "cache/cache_groups.h"
#include "ts/scheduler/snapshot.h"

namespace ts::scheduler {

// Both in the order of Config::groups.
[[nodiscard]] std::vector<RequestGroupSnapshot> snapshot_of(const GroupLease& lease,
                                                            const CacheGroups& groups);
[[nodiscard]] std::vector<GroupSnapshot> snapshot_of(const CacheGroups& groups, const PrefixIndex& index);

}  // namespace ts::scheduler
