// What a kernel needs of the thread pool, and each thread's scratch memory. Included by every file of every instruction
// set, and so without the standard library's threads, which take longer to read than most kernels to compile.
#pragma once

#include "common/types.h"

namespace ts {

class Pool;

// One parallel loop: body(context, task) for every task in [0, tasks), in any order, by any thread.
struct Loop {
  void (*body)(const void* context, i64 task);
  const void* context;
  i64 tasks;
};

void run_loop(Pool& pool, const Loop& loop, i64 flops);  // Pool::run
int threads_of(const Pool& pool);

// A block of at least `bytes` bytes, 64-byte aligned, private to the calling thread, kept for its next call with the
// same slot. Contents are unspecified.
enum class Slot : int {
  rows_in,
  rows_between,
  gathered,
  tile_out,
  weight_tile,
  hidden,
  activated,
  pairs,
  order,
  q_latent,
  query_columns,
  split_state,
  key_rows,
  key_columns,
  keys,
  values,
  scores,
  output,
  row_state,
  query,
  probabilities,
  candidates,
  merged,
  count
};
void* scratch(Slot slot, i64 bytes);

// A stride in bytes, moved off multiples of 1 KB: rows a multiple of 4 KB apart share one set of the level-1 cache,
// which holds 8 lines, while a tile reads 12 rows at once.
TS_INLINE i64 spread(i64 bytes) { return bytes % 1024 == 0 ? bytes + 64 : bytes; }

template <class T>
TS_INLINE T* scratch_of(Slot slot, i64 count) {
  return static_cast<T*>(scratch(slot, count * static_cast<i64>(sizeof(T))));
}

}  // namespace ts
