// AMX's tile registers. The instructions are written out because the compilers' intrinsics want literal register
// numbers, and GCC's do not say that they read memory: it may move a store behind the load of what it stores.
#pragma once

#include "isa/tile_config.h"

namespace ts::TS_ISA {

TS_INLINE void tile_configure(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }
TS_INLINE void tile_configuration(TileConfig& config) { asm volatile("sttilecfg %0" : "=m"(config)); }
TS_INLINE void tile_release() { asm volatile("tilerelease"); }

template <int T>
TS_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(T));
}

template <int T>
TS_INLINE void tile_load(const void* from, i64 row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(T) : "memory");
}

template <int T>
TS_INLINE void tile_store(float* to, i64 row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(T) : "memory");
}

template <int C, int A, int B>
TS_INLINE void tile_dot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

}  // namespace ts::TS_ISA
