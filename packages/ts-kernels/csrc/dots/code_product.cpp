#include "dots/code_product.h"

#include <utility>

#include "dots/codes.h"
#include "dots/row_pointers.h"
#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

// Codes 0 to 15 as bf16, twice: VPERMW reads five bits of each index, of which the fifth is another nibble's.
template <Format F>
TS_INLINE vi code_table() {
  const __m256i whole =
      _mm256_setr_epi16(0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, short(0xc100), short(0xc0e0),
                        short(0xc0c0), short(0xc0a0), short(0xc080), short(0xc040), short(0xc000), short(0xbf80));
  const __m256i e2m1 =
      _mm256_setr_epi16(0, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, 0, short(0xbf00), short(0xbf80),
                        short(0xbfc0), short(0xc000), short(0xc040), short(0xc080), short(0xc0c0));
  return _mm512_broadcast_i64x4(F == Format::fp4 ? e2m1 : whole);
}

// Nibbles P and P + 4 of each word: the rows have their numbers in that order, too.
template <int P>
TS_INLINE vi two_codes(vi word, vi table) {
  return _mm512_permutexvar_epi16(P == 0 ? word : _mm512_srli_epi32(word, 4 * P), table);
}

// A widened block of one panel: kBlock / 2 vectors of bf16 pairs, the scale, and with zero points those.
template <Format F, int kBlock>
constexpr i64 block_words = (kBlock / 2 + (F == Format::int4_zero ? 2 : 1)) * kPanel;

// `next` is what will be widened after the products with this: it is asked for now, and there by then.
template <Format F, int kBlock>
void widen(const WeightView& w, i64 panel, i64 from, i64 blocks, const u32* next, u32* to) {
  const vi table = code_table<F>();
  const u32* words = w.words + panel * w.panel_stride + from * (kBlock / 8) * kPanel;
  for (i64 block = from; block < from + blocks; ++block) {
    for (int u = 0; u < kBlock / 8; ++u, words += kPanel, to += 4 * kPanel) {
      const vi word = load_words(words);
      __builtin_prefetch(next);
      next += kPanel;
      store_words(to, two_codes<0>(word, table)), store_words(to + kPanel, two_codes<1>(word, table));
      store_words(to + 2 * kPanel, two_codes<2>(word, table)), store_words(to + 3 * kPanel, two_codes<3>(word, table));
    }
    const i64 at = panel * w.scale_panel_stride + block * kBlock / w.group * kPanel;
    store(reinterpret_cast<float*>(to), load_as_float(w.scales, w.scale_type, at, W));
    to += kPanel;
    if constexpr (F == Format::int4_zero) store(reinterpret_cast<float*>(to), load(w.zeros + at)), to += kPanel;
  }
}

// Where a tile reads and writes.
struct Part {
  const u32* words;  // of the strip's panels, widened
  i64 panel_stride, blocks;
  const u16* a;
  i64 a_stride;
  const float* sums;  // of each row's blocks
  i64 sums_stride;
  bool resume;
  float* out;
  i64 ldo, columns;
};

template <Format F, int kBlock, int kRows, int kPanels>
void codes_tile(const Part& t) {
  vf acc[kRows][kPanels];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p)
      acc[r][p] =
          t.resume ? load_as_float(t.out + r * t.ldo + p * kPanel, DType::f32, 0, t.columns - p * kPanel) : zero();
  const u32* words = t.words;
  using Pointers = RowPointers<u16, kRows>;
  Pointers a = Pointers::of(t.a, t.a_stride);
  for (i64 block = 0; block < t.blocks; ++block) {
    vf sum[kRows][kPanels];
#pragma GCC unroll 8
    for (auto& row : sum)
#pragma GCC unroll 2
      for (vf& x : row) x = zero();
#pragma GCC unroll 1
    for (int u = 0; u < kBlock / 2; ++u) {
      __m512bh b[kPanels];
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) b[p] = (__m512bh)load_words(words + p * t.panel_stride + u * kPanel);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        i32 pair;
        std::memcpy(&pair, Pointers::row(a, r), 4);
        const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) sum[r][p] = _mm512_dpbf16_ps(sum[r][p], both, b[p]);
      }
      Pointers::advance(a, 2);
    }
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      const float* factors = reinterpret_cast<const float*>(words + p * t.panel_stride + kBlock / 2 * kPanel);
      const vf scale = load(factors);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        if constexpr (F == Format::int4_zero)
          sum[r][p] = fma(load(factors + kPanel), set1(-t.sums[r * t.sums_stride + block]), sum[r][p]);
        acc[r][p] = fma(sum[r][p], scale, acc[r][p]);
      }
    }
    words += block_words<F, kBlock>;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      const i64 left = t.columns - p * kPanel;
      if (left > 0) store_as(t.out + r * t.ldo + p * kPanel, DType::f32, 0, acc[r][p], left);
    }
}

constexpr int kTallest = 7;  // rows of two panels that the registers hold, with the sums of a block

using TileFunction = void (*)(const Part&);

template <Format F, int kBlock, int kPanels, int... R>
TS_INLINE TileFunction pick(i64 rows, std::integer_sequence<int, R...>) {
  static constexpr TileFunction tiles[] = {codes_tile<F, kBlock, R + 1, kPanels>...};
  return tiles[rows - 1];
}

// The rows of one strip of kPanels panels, in blocks of equal height up to kTallest.
template <Format F, int kBlock, int kPanels>
void run_strip(const Part& strip, i64 rows) {
  in_blocks(rows, kTallest, [&](i64 begin, i64 height) TS_LAMBDA {
    Part part = strip;
    part.a += begin * part.a_stride, part.sums += begin * part.sums_stride, part.out += begin * part.ldo;
    pick<F, kBlock, kPanels>(height, std::make_integer_sequence<int, kTallest>{})(part);
  });
}

// In parts of 1,024 k, or 512 where few rows share what was widened: the parts of two panels, and a block of rows, stay
// in the level-1 cache or near it.
template <Format F, int kBlock>
void run(const WeightView& w, const DotRows& a, i64 row, i64 rows, i64 column, i64 columns, float* out, i64 ldo) {
  const i64 depth = (rows > 48 ? 1024 : 512) / kBlock, panel_stride = depth * block_words<F, kBlock>;
  u32* wide = scratch_of<u32>(Slot::weight_tile, 2 * panel_stride);
  for (i64 from = 0; from < a.blocks; from += depth) {
    const i64 blocks = min_of(depth, a.blocks - from);
    for (i64 c = 0; c < columns; c += 2 * kPanel) {
      const i64 left = columns - c, panels = left > kPanel ? 2 : 1;
      const bool last = c + 2 * kPanel >= columns;
      const i64 next_panel = last ? column / kPanel : (column + c) / kPanel + 2, next_from = last ? from + depth : from;
      const u32* next = w.words + next_panel * w.panel_stride + next_from * (kBlock / 8) * kPanel;
      for (i64 p = 0; p < panels; ++p)
        widen<F, kBlock>(w, (column + c) / kPanel + p, from, blocks, next + p * w.panel_stride,
                         wide + p * panel_stride);
      const Part part{wide,     panel_stride,
                      blocks,   a.pairs + row * a.stride + from * kBlock,
                      a.stride, a.sums + row * a.blocks + from,
                      a.blocks, from > 0,
                      out + c,  ldo,
                      left};
      panels == 2 ? run_strip<F, kBlock, 2>(part, rows) : run_strip<F, kBlock, 1>(part, rows);
    }
  }
}

}  // namespace

void multiply_codes(const WeightView& w, const DotRows& a, i64 row, i64 rows, i64 column, i64 columns, float* out,
                    i64 ldo) {
  if (w.format == Format::int4) return run<Format::int4, 32>(w, a, row, rows, column, columns, out, ldo);
  if (w.format == Format::int4_zero) return run<Format::int4_zero, 32>(w, a, row, rows, column, columns, out, ldo);
  return block_of(w) == 16 ? run<Format::fp4, 16>(w, a, row, rows, column, columns, out, ldo)
                           : run<Format::fp4, 32>(w, a, row, rows, column, columns, out, ldo);
}

}  // namespace ts::TS_ISA
