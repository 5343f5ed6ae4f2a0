#include "dots/fp8_product.h"

#include <type_traits>
#include <utility>

#include "dots/row_pointers.h"
#include "isa/e4m3_table.h"
#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

constexpr i64 kWordK = 4;  // k of a word

// Sums run over at most this many k, and no further than a scale holds; then they are scaled.
constexpr i64 kSegment = 128;

// Codes become bf16 times 2^-16: no sum of a segment is then larger than the largest number of the row, however large
// that is. No code is below what bf16 holds, and a product with one is lost (the instruction takes numbers below 2^-126
// for zero) only where the row's number is below 2^-101.
constexpr float kRaise = 0x1p16f;

// From this many rows on, codes are decoded once for all of them.
constexpr i64 kWidenedRows = 48;

constexpr E4m3Table kTable = e4m3_table(16, false);

// Turns the codes of a word into two pairs of bf16: k and k + 1, k + 2 and k + 3.
struct Decoder {
  E4m3Decoder codes;
  vi order;

  TS_INLINE Decoder make() {
    const __m128i pairs = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    return {E4m3Decoder::make(kTable), _mm512_broadcast_i32x4(pairs)};
  }

  TS_INLINE void decode(const Decoder& d, vi word, vi (&pair)[2]) {
    E4m3Decoder::decode(d.codes, _mm512_shuffle_epi8(word, d.order), pair);
  }
};

// Where a tile reads and writes: k from `from` to `to` of the panels from `panel` on.
struct Part {
  const WeightView& w;
  i64 panel, from, to;
  const u32* words;  // of the first panel at `from`: packed, or as pairs
  i64 panel_stride;
  const u16* a;  // the first row at `from`
  i64 a_stride;
  float* out;
  i64 ldo, columns;
};

// Words as they come from memory. A single row waits for it: words are asked for 4 KB ahead.
template <int kRows>
struct Packed {
  static constexpr i64 kWords = kPanel, kAhead = 1024;
  Decoder decoder = Decoder::make();
  TS_INLINE void load(const Packed& s, const u32* words, vi (&pair)[2]) {
    if constexpr (kRows == 1) _mm_prefetch(reinterpret_cast<const char*>(words + kAhead), _MM_HINT_T0);
    Decoder::decode(s.decoder, load_words(words), pair);
  }
};

struct Widened {
  static constexpr i64 kWords = 2 * kPanel;
  TS_INLINE void load(const Widened&, const u32* words, vi (&pair)[2]) {
    pair[0] = load_words(words), pair[1] = load_words(words + kPanel);
  }
};

// The k that the sums which begin at k run to.
TS_INLINE i64 segment_end(const WeightView& w, i64 k) {
  return min_of(min_of(k / kSegment * kSegment + kSegment, k / w.group * w.group + w.group), w.k);
}

template <class Source, int kRows, int kPanels>
void tile(const Part& t) {
  const Source source{};
  using Pointers = RowPointers<u16, kRows>;
  Pointers a = Pointers::of(t.a, t.a_stride);
  const u32* words = t.words;
  vf acc[kRows][kPanels];
  for (int r = 0; r < kRows; ++r)
    for (int p = 0; p < kPanels; ++p)
      acc[r][p] =
          t.from ? load_as_float(t.out + r * t.ldo + p * kPanel, DType::f32, 0, t.columns - p * kPanel) : zero();
  vf sum[kRows][kPanels];
  const auto add_pairs = [&](const vi(&b)[kPanels][2], int which) TS_LAMBDA {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      i32 both;
      std::memcpy(&both, Pointers::row(a, r) + 2 * which, 4);
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(both);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) sum[r][p] = _mm512_dpbf16_ps(sum[r][p], pair, (__m512bh)b[p][which]);
    }
  };
  for (i64 k = t.from; k < t.to;) {
    const i64 end = min_of(segment_end(t.w, k), t.to), scales = k / t.w.group * kPanel;
    for (auto& row : sum)
      for (vf& x : row) x = zero();
    for (; k < end; k += kWordK) {
      vi b[kPanels][2];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) Source::load(source, words + p * t.panel_stride, b[p]);
      add_pairs(b, 0);
      if (end - k > 2) add_pairs(b, 1);  // else the rows end here
      Pointers::advance(a, kWordK);
      words += Source::kWords;
    }
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      const vf scale = load_as_float(t.w.scales, t.w.scale_type, (t.panel + p) * t.w.scale_panel_stride + scales, W);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) acc[r][p] = fma(sum[r][p] * scale, set1(kRaise), acc[r][p]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      const i64 left = t.columns - p * kPanel;
      if (left > 0) store_as(t.out + r * t.ldo + p * kPanel, DType::f32, 0, acc[r][p], left);
    }
}

using TileFunction = void (*)(const Part&);

template <bool kPacked, int kPanels, int... R>
TS_INLINE TileFunction pick(i64 rows, std::integer_sequence<int, R...>) {
  static constexpr TileFunction tiles[] = {
      tile<std::conditional_t<kPacked, Packed<R + 1>, Widened>, R + 1, kPanels>...};
  return tiles[rows - 1];
}

// The rows of one strip of kPanels panels, in blocks of equal height up to kTallest.
template <bool kPacked, int kPanels, int kTallest>
void run_strip(const Part& strip, i64 rows) {
  in_blocks(rows, kTallest, [&](i64 begin, i64 height) TS_LAMBDA {
    Part part = strip;
    part.a += begin * part.a_stride, part.out += begin * part.ldo;
    pick<kPacked, kPanels>(height, std::make_integer_sequence<int, kTallest>{})(part);
  });
}

// Rows of two panels that the registers hold with the sums of a segment: beside the decoder, and without it.
constexpr int kTallestPacked = 4, kTallestWidened = 7;

template <int kPanels, int kTallest>
void run_packed(Part& part, i64 rows, bool ragged) {
  while (part.columns >= (ragged ? 1 : kPanels * kPanel)) {
    run_strip<true, kPanels, kTallest>(part, rows);
    part.panel += kPanels, part.words += kPanels * part.panel_stride;
    part.out += kPanels * kPanel, part.columns -= kPanels * kPanel;
  }
}

void widen(const u32* words, i64 count, u32* to) {
  const Decoder decoder = Decoder::make();
  for (i64 at = 0; at < count; ++at, words += kPanel, to += 2 * kPanel) {
    vi pair[2];
    Decoder::decode(decoder, load_words(words), pair);
    store_words(to, pair[0]), store_words(to + kPanel, pair[1]);
  }
}

}  // namespace

void multiply_fp8(const WeightView& w, const DotRows& a, i64 row, i64 rows, i64 column, i64 columns, float* out,
                  i64 ldo) {
  Part part{.w = w,
            .panel = column / kPanel,
            .from = 0,
            .to = w.k,
            .words = w.words + column / kPanel * w.panel_stride,
            .panel_stride = w.panel_stride,
            .a = a.pairs + row * a.stride,
            .a_stride = a.stride,
            .out = out,
            .ldo = ldo,
            .columns = columns};
  if (rows < kWidenedRows) {
    if (rows == 1) run_packed<4, 1>(part, rows, false);
    run_packed<2, kTallestPacked>(part, rows, false);
    return run_packed<1, kTallestPacked>(part, rows, true);
  }
  // In parts of 1,024 k: a part of two panels stays near the level-1 cache, the rows' parts in the level-2 cache.
  constexpr i64 kDepth = 8 * kSegment, kWide = kDepth / kWordK * 2 * kPanel;
  u32* wide = scratch_of<u32>(Slot::weight_tile, 2 * kWide);
  part.words = wide, part.panel_stride = kWide;
  for (; part.from < w.k; part.from += kDepth, part.a += kDepth) {
    part.to = min_of(part.from + kDepth, w.k);
    for (i64 c = 0; c < columns; c += 2 * kPanel) {
      part.panel = (column + c) / kPanel, part.out = out + c, part.columns = columns - c;
      const i64 panels = part.columns > kPanel ? 2 : 1;
      for (i64 p = 0; p < panels; ++p)
        widen(w.words + (part.panel + p) * w.panel_stride + part.from / kWordK * kPanel,
              ceil_div(part.to - part.from, kWordK), wide + p * kWide);
      panels == 2 ? run_strip<false, 2, kTallestWidened>(part, rows) : run_strip<false, 1, kTallestWidened>(part, rows);
    }
  }
}

}  // namespace ts::TS_ISA
