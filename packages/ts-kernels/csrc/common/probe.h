// How fast this machine reads memory: what kernels that read their weights once are held against.
#pragma once

#include "common/types.h"

namespace ts {

// Reads `bytes` bytes (a multiple of 256) from a 64-byte aligned address; a checksum, so that nothing is left out.
u64 read_all(const void* data, i64 bytes);

}  // namespace ts
