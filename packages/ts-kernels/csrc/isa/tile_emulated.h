// The tile registers in plain C++, to the letter of Intel's description (SDM, "TDPBF16PS" and "LDTILECFG"), so that the
// code around them runs on any machine.
#pragma once

#include "isa/tile_config.h"

namespace ts::TS_ISA {

// A register's bytes beyond its configured shape are zero; unconfigured, its shape is empty.
struct Tiles {
  TileConfig config;
  alignas(64) unsigned char bytes[kTiles][kTileRows][kTileBytes];
};
static thread_local Tiles tiles;

TS_INLINE void tile_configure(const TileConfig& config) {
  tiles = Tiles{};
  tiles.config = config;
}
TS_INLINE void tile_configuration(TileConfig& config) { config = tiles.config; }
TS_INLINE void tile_release() { tiles = Tiles{}; }

template <int T>
TS_INLINE void tile_zero() {
  std::memset(tiles.bytes[T], 0, sizeof tiles.bytes[T]);
}

template <int T>
TS_INLINE void tile_load(const void* from, i64 row_bytes) {
  tile_zero<T>();
  for (int m = 0; m < tiles.config.rows[T]; ++m)
    std::memcpy(tiles.bytes[T][m], static_cast<const char*>(from) + m * row_bytes, tiles.config.row_bytes[T]);
}

template <int T>
TS_INLINE void tile_store(float* to, i64 row_bytes) {
  for (int m = 0; m < tiles.config.rows[T]; ++m)
    std::memcpy(reinterpret_cast<char*>(to) + m * row_bytes, tiles.bytes[T][m], tiles.config.row_bytes[T]);
}

// Subnormal numbers count as zero, read or written.
TS_INLINE float flush(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0.0f, x) : x; }

TS_INLINE float tile_number(int t, int row, int i) {
  u16 bits;
  std::memcpy(&bits, tiles.bytes[t][row] + 2 * i, 2);
  return flush(bf16_to_float(bits));
}

// Even and odd members of the pairs have a running sum each, from zero; then the two are added, and then c.
template <int C, int A, int B>
TS_INLINE void tile_dot() {
  const int pairs = tiles.config.row_bytes[A] / 4;
  for (int m = 0; m < tiles.config.rows[C]; ++m)
    for (int n = 0; n < tiles.config.row_bytes[C] / 4; ++n) {
      float sum[2] = {0.0f, 0.0f}, c;
      for (int k = 0; k < pairs; ++k)
        for (int j = 0; j < 2; ++j)
          sum[j] = flush(__builtin_fmaf(tile_number(A, m, 2 * k + j), tile_number(B, k, 2 * n + j), sum[j]));
      unsigned char* at = tiles.bytes[C][m] + 4 * n;
      std::memcpy(&c, at, 4);
      c = flush(flush(c) + flush(sum[0] + sum[1]));
      std::memcpy(at, &c, 4);
    }
}

}  // namespace ts::TS_ISA
