// Pairs (token, choice) sorted by the expert that they ask for. Compiled once, for any machine.
#pragma once

#include "common/types.h"

namespace ts {

struct SortArgs {
  const i32* ids;  // [count] the expert of each pair; those outside of [0, experts) are left out
  i64 count, experts, block, capacity;
  i32* pairs;    // [capacity] in ascending order within an expert, `count` where there is none
  i32* offsets;  // [experts + 1] first place of each expert, which begins a block
  i32* blocks;   // [capacity / block] expert of each block, -1 past the end
};

// Places that suffice for any choice of experts: each expert with pairs wastes less than a block.
i64 capacity_of(i64 pairs, i64 experts, i64 block);

void sort_pairs(const SortArgs& a);

}  // namespace ts
