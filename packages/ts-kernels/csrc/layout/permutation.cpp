#include "layout/permutation.h"

#include <algorithm>
#include <vector>

namespace ts {

i64 capacity_of(i64 pairs, i64 experts, i64 block) {
  return (pairs + std::min(pairs, experts) * (block - 1)) / block * block;
}

void sort_pairs(const SortArgs& a) {
  const auto here = [&](i64 i) { return a.ids[i] >= 0 && a.ids[i] < a.experts; };
  std::vector<i32> next(static_cast<std::size_t>(a.experts));
  for (i64 i = 0; i < a.count; ++i)
    if (here(i)) ++next[static_cast<std::size_t>(a.ids[i])];
  i64 place = 0;
  for (i64 e = 0; e < a.experts; ++e) {
    const i64 end = place + round_up(next[static_cast<std::size_t>(e)], a.block);
    a.offsets[e] = next[static_cast<std::size_t>(e)] = static_cast<i32>(place);
    for (; place < end; place += a.block) a.blocks[place / a.block] = static_cast<i32>(e);
  }
  a.offsets[a.experts] = static_cast<i32>(place);
  std::fill(a.blocks + place / a.block, a.blocks + a.capacity / a.block, -1);
  std::fill(a.pairs, a.pairs + a.capacity, static_cast<i32>(a.count));
  for (i64 i = 0; i < a.count; ++i)
    if (here(i)) a.pairs[next[static_cast<std::size_t>(a.ids[i])]++] = static_cast<i32>(i);
}

}  // namespace ts
