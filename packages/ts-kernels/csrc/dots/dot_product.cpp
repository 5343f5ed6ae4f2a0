#include "dots/dot_product.h"

#include <utility>

#include "dots/code_product.h"
#include "dots/codes.h"
#include "dots/fp8_product.h"
#include "dots/row_pointers.h"
#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

// `columns` may end in any panel.
template <int kPanels>
TS_INLINE void write(const vf (&acc)[kPanels], float* out, i64 columns) {
#pragma GCC unroll 8
  for (int p = 0; p < kPanels; ++p) {
    const i64 left = columns - p * kPanel;
    if (left > 0) store_as(out + p * kPanel, DType::f32, 0, acc[p], left);
  }
}

// Where a tile reads and writes: `rows` and `panels` of it are template arguments.
struct Place {
  const WeightView& w;
  const DotRows& a;
  i64 row, panel;
  float* out;
  i64 ldo, columns;
  i64 first = 0, units = 0;  // pairs of k that are added up; what the first of all follow is in out
};

// Sums of bf16 pairs, in the order of k whatever the tile's shape.
template <int kRows, int kPanels>
void pairs_tile(const Place& t) {
  vf acc[kRows][kPanels];
  for (int r = 0; r < kRows; ++r)
    for (int p = 0; p < kPanels; ++p)
      acc[r][p] =
          t.first ? load_as_float(t.out + r * t.ldo + p * kPanel, DType::f32, 0, t.columns - p * kPanel) : zero();
  using Pointers = RowPointers<u16, kRows>;
  Pointers a = Pointers::of(t.a.pairs + t.row * t.a.stride + 2 * t.first, t.a.stride);
  const u32* words = t.w.words + t.panel * t.w.panel_stride + t.first * kPanel;
  for (i64 u = 0; u < t.units; ++u) {
    __m512bh b[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) b[p] = (__m512bh)load_words(words + p * t.w.panel_stride + u * kPanel);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      i32 pair;
      std::memcpy(&pair, Pointers::row(a, r), 4);
      const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) acc[r][p] = _mm512_dpbf16_ps(acc[r][p], both, b[p]);
    }
    Pointers::advance(a, 2);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) write(acc[r], t.out + r * t.ldo, t.columns);
}

// A single row waits for memory: words are asked for this many ahead (2 KB), as the instructions of a block fill what
// the processor looks ahead by itself.
constexpr i64 kAhead = 512;

// The sums of one block's bytes.
template <Format F, int kParts, int kBlock, int kRows, int kPanels>
struct BlockSums {
  vi sum[kRows][kPanels][kParts];

  TS_INLINE void begin(BlockSums& s, const BlockHead* heads, i64 blocks) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int part = 0; part < kParts; ++part) {
        const vi start = _mm512_set1_epi32(heads[r * blocks].start[part]);
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) s.sum[r][p][part] = start;
      }
  }

  TS_INLINE void add(BlockSums& s, const vi (&codes)[kPanels], const u32* a, i64 row_words, int word) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int part = 0; part < kParts; ++part) {
        const vi four = _mm512_set1_epi32(static_cast<int>(a[r * row_words + part * kBlock / 4 + word]));
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) s.sum[r][p][part] = _mm512_dpbusd_epi32(s.sum[r][p][part], codes[p], four);
      }
  }

  TS_INLINE void add_words(BlockSums& s, const u32* words, i64 panel_stride, const u32* a, i64 row_words, i64 ahead) {
    constexpr int unit = static_cast<int>(unit_of(F));
#pragma GCC unroll 8
    for (int u = 0; u < kBlock / unit; ++u) {
      vi first[kPanels], second[kPanels];
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        const u32* from = words + p * panel_stride + u * kPanel;
        const vi word = load_words(from);
        if constexpr (kRows == 1) _mm_prefetch(reinterpret_cast<const char*>(from + ahead), _MM_HINT_T0);
        if constexpr (unit == 8) {
          const Bytes bytes = bytes_of<F>(word);
          first[p] = bytes.even, second[p] = bytes.odd;
        } else {
          first[p] = _mm512_xor_si512(word, _mm512_set1_epi8(static_cast<char>(0x80)));
        }
      }
      add(s, first, a, row_words, unit == 8 ? 2 * u : u);
      if constexpr (unit == 8) add(s, second, a, row_words, 2 * u + 1);
    }
  }

  // The sum of row r and panel p in units of the row's scale.
  TS_INLINE vf total(const BlockSums& s, int r, int p, const BlockHead& head, const vf& zeros) {
    const vi* part = s.sum[r][p];
    vf high = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(part[0], 8), part[1]));
    if constexpr (F == Format::int4_zero) high = fma(zeros, set1(-head.high), high);
    if constexpr (kParts == 2) return high;
    vf low = _mm512_cvtepi32_ps(part[kParts - 1]);
    if constexpr (F == Format::int4_zero) low = fma(zeros, set1(-head.low), low);
    return fma(high, set1(256.0f), low);
  }
};

// Blocks are added up in the order of k, whatever the tile's shape.
template <Format F, int kParts, int kBlock, int kRows, int kPanels>
void bytes_tile(const Place& t) {
  using Sums = BlockSums<F, kParts, kBlock, kRows, kPanels>;
  const WeightView& w = t.w;
  vf acc[kRows][kPanels];
  for (auto& row : acc)
    for (vf& x : row) x = zero();
  const u32* words = w.words + t.panel * w.panel_stride;
  const u32* a = t.a.bytes + t.row * t.a.row_words;
  const BlockHead* heads = t.a.heads + t.row * t.a.blocks;
  i64 scales = t.panel * w.scale_panel_stride;
  const i64 per_group = max_of(1, w.group / kBlock);
  for (i64 block = 0, left = per_group; block < t.a.blocks; ++block) {
    Sums sums;
    Sums::begin(sums, heads, t.a.blocks);
    const bool inside = (block + 1) * (kBlock / unit_of(F)) * kPanel + kAhead <= w.panel_stride;
    const i64 ahead = inside ? kAhead : kAhead + (kPanels - 1) * w.panel_stride;  // of the panels after these
    Sums::add_words(sums, words, w.panel_stride, a, t.a.row_words, ahead);
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      vf scale = load_as_float(w.scales, w.scale_type, scales + p * w.scale_panel_stride, W), zeros = zero();
      if constexpr (F == Format::fp4) scale = scale * set1(0.5f);
      if constexpr (F == Format::int4_zero) zeros = load(w.zeros + scales + p * w.scale_panel_stride);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const BlockHead& head = heads[r * t.a.blocks];
        acc[r][p] = fma(Sums::total(sums, r, p, head, zeros), scale * set1(head.scale), acc[r][p]);
      }
    }
    words += kBlock / unit_of(F) * kPanel, a += kParts * kBlock / 4, ++heads;
    if (--left == 0) left = per_group, scales += kPanel;
  }
  for (int r = 0; r < kRows; ++r) write(acc[r], t.out + r * t.ldo, t.columns);
}

using TileFunction = void (*)(const Place&);

struct Pairs {
  template <int kRows, int kPanels>
  static constexpr TileFunction tile = pairs_tile<kRows, kPanels>;
};

template <Format F, int kParts, int kBlock>
struct Blocks {
  template <int kRows, int kPanels>
  static constexpr TileFunction tile = bytes_tile<F, kParts, kBlock, kRows, kPanels>;
};

template <class Kind, int kPanels, int... R>
TS_INLINE TileFunction pick(i64 rows, std::integer_sequence<int, R...>) {
  static constexpr TileFunction tiles[] = {Kind::template tile<R + 1, kPanels>...};
  return tiles[rows - 1];
}

// Strips of kPanels panels; within each the rows, in blocks of equal height up to kTallest. `place` moves past them.
template <class Kind, int kPanels, int kTallest>
TS_INLINE void run_strips(Place& place, i64 rows, bool ragged) {
  const i64 first_row = place.row;
  float* out = place.out;
  while (place.columns >= (ragged ? 1 : kPanels * kPanel)) {
    in_blocks(rows, kTallest, [&](i64 begin, i64 height) TS_LAMBDA {
      place.row = first_row + begin, place.out = out + begin * place.ldo;
      pick<Kind, kPanels>(height, std::make_integer_sequence<int, kTallest>{})(place);
    });
    place.panel += kPanels, place.columns -= kPanels * kPanel, out += kPanels * kPanel;
  }
  place.row = first_row, place.out = out;
}

template <Format F, int kParts, int kBlock>
void run_bytes(Place place, i64 rows) {
  using Kind = Blocks<F, kParts, kBlock>;
  constexpr int kTallest = kParts == 2 ? 4 : 3;  // with two panels: what the registers hold
  if (rows == 1) run_strips<Kind, 4, 1>(place, rows, false);
  run_strips<Kind, 2, kTallest>(place, rows, false);
  run_strips<Kind, 1, kTallest>(place, rows, true);
}

template <Format F, int kBlock = 32>
void run_parts(const Place& place, i64 rows) {
  place.a.parts == 2 ? run_bytes<F, 2, kBlock>(place, rows) : run_bytes<F, 3, kBlock>(place, rows);
}

// Many rows are taken in parts of 1,024 k: 256 rows of that stay in the level-2 cache while the strips pass by.
void run_pairs(const Place& whole, i64 rows) {
  const i64 units = ceil_div(whole.w.k, 2), depth = rows > 48 ? 512 : units;
  for (i64 first = 0; first < units; first += depth) {
    Place place = whole;
    place.first = first, place.units = min_of(depth, units - first);
    if (rows == 1) run_strips<Pairs, 8, 1>(place, rows, false);
    if (rows <= 5) run_strips<Pairs, 4, 5>(place, rows, false);
    run_strips<Pairs, 2, 12>(place, rows, false);
    run_strips<Pairs, 1, 12>(place, rows, true);
  }
}

}  // namespace

void multiply_dots(const WeightView& w, const DotRows& a, i64 row, i64 rows, i64 column, i64 columns, float* out,
                   i64 ldo) {
  if (rows == 0) return;
  if (a.sums) return multiply_codes(w, a, row, rows, column, columns, out, ldo);
  const Place place{w, a, row, column / kPanel, out, ldo, columns};
  switch (w.format) {
    case Format::bf16:
      return run_pairs(place, rows);
    case Format::int4:
      return run_parts<Format::int4>(place, rows);
    case Format::int4_zero:
      return run_parts<Format::int4_zero>(place, rows);
    case Format::int8:
      return run_parts<Format::int8>(place, rows);
    case Format::fp4:
      return block_of(w) == 16 ? run_parts<Format::fp4, 16>(place, rows) : run_parts<Format::fp4>(place, rows);
    case Format::fp8:
      return multiply_fp8(w, a, row, rows, column, columns, out, ldo);
    case Format::f32:
      break;  // dots_serve is false
  }
}

}  // namespace ts::TS_ISA
