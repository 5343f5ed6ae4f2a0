// Packed weights as tiles read them: row i of a tile holds k = 2i and 2i + 1 of 16 columns.
#pragma once

#include "isa/tile_config.h"
#include "layout/packed.h"

namespace ts::TS_ISA {

constexpr i64 kTileDepth = 32, kTileWords = kTileRows * kPanel;  // k in a tile; words in a tile

// Tile d of part q of panel p lies at words + p * panel_stride + q * part_stride + d * kTileWords; the parts add up.
struct TileColumns {
  const u32* words;
  i64 panel_stride, part_stride;
  int parts;
  i64 depth;
};

// Tiles [from, from + depth) of `panels` panels: the packed words themselves, or a copy in scratch that lives until the
// thread's next call.
TileColumns tile_columns(const WeightView& w, i64 panel, i64 panels, i64 from, i64 depth);

}  // namespace ts::TS_ISA
