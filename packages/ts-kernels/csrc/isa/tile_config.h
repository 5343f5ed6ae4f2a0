// What LDTILECFG reads: the shape of each tile register.
#pragma once

#include "common/types.h"

namespace ts {

constexpr int kTiles = 8, kTileRows = 16, kTileBytes = 64;

struct alignas(64) TileConfig {
  std::uint8_t palette = 0;  // 0: the registers are unusable, as after a release
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  u16 row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64 && offsetof(TileConfig, row_bytes) == 16 && offsetof(TileConfig, rows) == 48);

// Palette 1, all eight tiles at their full size. Remainders are padded, so that no product needs another shape.
constexpr TileConfig full_tiles() {
  TileConfig config;
  config.palette = 1;
  for (int t = 0; t < kTiles; ++t) {
    config.row_bytes[t] = kTileBytes;
    config.rows[t] = kTileRows;
  }
  return config;
}

}  // namespace ts
