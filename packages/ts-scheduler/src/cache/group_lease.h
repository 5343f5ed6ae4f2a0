#pragma once

#include <vector>

#include "cache/prefix_index.h"
#include "cache/state_pages.h"
#include "cache/window_table.h"

namespace ts::scheduler {

// What an admitted request holds of the groups beside full attention, in their order. Empty, and without any
// memory of its own, where there are none.
struct GroupLease {
    std::vector<WindowTable> windows;
    std::vector<StatePages> states;
    std::vector<PrefixIndex::Node> nodes;  // of the request's sealed blocks of full attention
};

}  // namespace ts::scheduler
