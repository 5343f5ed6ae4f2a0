#include "tiles/tile_weights.h"

#include "isa/vec.h"
#include "parallel/loop.h"

namespace ts::TS_ISA {
namespace {

// bf16 words have the order of a tile already; only the zeros below the last k may be missing.
void pad_bf16(const WeightView& w, i64 panel, i64 from, i64 depth, u32* to) {
  const i64 words = min_of(depth * kTileWords, ceil_div(w.k, 2) * kPanel - from * kTileWords);
  std::memcpy(to, w.words + panel * w.panel_stride + from * kTileWords, static_cast<std::size_t>(words) * 4);
  std::memset(to + words, 0, static_cast<std::size_t>(depth * kTileWords - words) * 4);
}

// A nibble times its scale has 11 bits: two bf16 numbers, of which the first is cut off, hold it exactly.
template <int J>
TS_INLINE void split_pair(vi raw, vf scale, u32* high, u32* low) {
  const vf even = nibble<J>(raw) * scale, odd = nibble<J + 1>(raw) * scale;
  const vi top = bf16_pair(even, odd);
  store_words(high, top);
  store_words(low, bf16_pair(even - bf16_low(top), odd - bf16_high(top)));
}

// INT4 as deep as a tile, which is a group or a part of one.
void split_group(const WeightView& w, i64 panel, i64 depth, u32* high, u32* low) {
  static_assert(kGroup == kTileDepth);
  const u32* words = w.words + panel * w.panel_stride + depth * (kGroup / 8) * kPanel;
  const i64 group = depth * kTileDepth / w.group;
  for (i64 lane = 0; lane < kPanel; lane += W) {
    const vf scale =
        load_bf16(static_cast<const u16*>(w.scales) + panel * w.scale_panel_stride + group * kPanel + lane);
    for (i64 u = 0; u < kGroup / 8; ++u) {
      const vi raw = load_words(words + u * kPanel + lane);
      const i64 to = 4 * u * kPanel + lane;
      split_pair<0>(raw, scale, high + to, low + to);
      split_pair<2>(raw, scale, high + to + kPanel, low + to + kPanel);
      split_pair<4>(raw, scale, high + to + 2 * kPanel, low + to + 2 * kPanel);
      split_pair<6>(raw, scale, high + to + 3 * kPanel, low + to + 3 * kPanel);
    }
  }
}

}  // namespace

TileColumns tile_columns(const WeightView& w, i64 panel, i64 panels, i64 from, i64 depth) {
  if (w.format == Format::bf16 && (from + depth) * kTileDepth <= w.k)
    return {w.words + panel * w.panel_stride + from * kTileWords, w.panel_stride, 0, 1, depth};
  const int parts = w.format == Format::int4 ? 2 : 1;
  const i64 part_stride = depth * kTileWords, panel_stride = parts * part_stride;
  u32* words = scratch_of<u32>(Slot::weight_tile, panels * panel_stride);
  for (i64 p = 0; p < panels; ++p) {
    u32* to = words + p * panel_stride;
    if (w.format == Format::bf16) {
      pad_bf16(w, panel + p, from, depth, to);
      continue;
    }
    for (i64 d = 0; d < depth; ++d)
      split_group(w, panel + p, from + d, to + d * kTileWords, to + part_stride + d * kTileWords);
  }
  return {words, panel_stride, part_stride, parts, depth};
}

}  // namespace ts::TS_ISA
