// How fast this machine reads memory: what kernels that read their weights once are held against.
#pragma once

#include "common/types.h"
#include "parallel/loop.h"

namespace ts {

// Reads `bytes` bytes (a multiple of 256) from a 64-byte aligned address with all threads of the pool; a checksum, so
// that nothing is left out.
u64 read_all(Pool& pool, const void* data, i64 bytes);

}  // namespace ts
