// Products of rows in fixed point with quantized weights, on the byte products of AVX2 (VPMADDUBSW, VPMADDWD).
//
// Sums of a block are exact in 32 bits; only they are rounded, to fp32, and added up in the order of k. So a row's
// result does not depend on how many rows are computed with it.
#include "dots/dot_product.h"

#include "dots/avx2/codes.h"
#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

constexpr int kHalves = 2;  // vectors of 8 columns in a panel

// A block of one panel with its codes as they are multiplied: for each step both halves, the scales, and with zero
// points those.
template <Format F, int kBlock>
constexpr i64 kBlockWords = (kSteps<F, kBlock> + (F == Format::int4_zero ? 2 : 1)) * kPanel;

// Where a tile reads and writes, one panel wide.
struct Part {
  const u32* words;     // of the panel: packed, or with codes widened
  const WeightView& w;  // for what is packed: its scales
  i64 scales, group;    // where they begin; blocks of a group
  const u32* a;         // the first row's words
  const BlockHead* heads;
  i64 row_words, head_stride, blocks;
  bool resume;  // adds to out
  float* out;
  i64 ldo, columns;
};

// The sums of one block of kRows rows.
template <Format F, int kParts, int kBlock, int kRows>
struct BlockSums {
  vi sum[kRows][kParts][kHalves];  // of 16 bits, INT8's of 32

  TS_INLINE void clear(BlockSums& s) {
#pragma GCC unroll 4
    for (auto& row : s.sum)
#pragma GCC unroll 4
      for (auto& part : row)
#pragma GCC unroll 2
        for (vi& x : part) x = _mm256_setzero_si256();
  }

  TS_INLINE void add(BlockSums& s, const vi (&codes)[kHalves], const u32* a, i64 row_words, int step) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
        const vi numbers = _mm256_set1_epi32(static_cast<int>(a[r * row_words + part * kSteps<F, kBlock> + step]));
#pragma GCC unroll 2
        for (int h = 0; h < kHalves; ++h) {
          vi& sum = s.sum[r][part][h];
          if constexpr (F == Format::int8) {
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(codes[h], numbers));
          } else {
            sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes[h], numbers));
          }
          // Left to itself the compiler makes trees of these additions, and spills what they keep alive.
          asm("" : "+x"(sum));
        }
      }
  }

  // Row r, half h: what is in the sums, in units of the row's scale. Additions may wrap on the way.
  TS_INLINE vi whole(const BlockSums& s, int r, int h) {
    const auto part = [&](int p, int factor) TS_LAMBDA {
      return _mm256_madd_epi16(s.sum[r][p][h], _mm256_set1_epi16(static_cast<short>(factor)));
    };
    const vi sum = _mm256_add_epi32(part(0, 256), part(1, 1));
    return kParts == 2 ? sum : _mm256_add_epi32(_mm256_slli_epi32(sum, 8), part(kParts - 1, 1));
  }

  TS_INLINE vf wide(const BlockSums& s, int r, int h) {  // INT8
    const vf high = _mm256_cvtepi32_ps(s.sum[r][0][h]);
    return kParts == 1 ? high : fma(high, set1(4096.0f), _mm256_cvtepi32_ps(s.sum[r][kParts - 1][h]));
  }
};

// Codes of each step as they come from memory: packed, or widened in scratch.
template <Format F, int kBlock>
struct Packed {
  static constexpr i64 kWords = kBlock / unit_of(F) * kPanel;
  TS_INLINE void load(const u32* words, int step, vi (&even)[kHalves], vi (&odd)[kHalves]) {
    // A single row waits for memory: words are asked for this many ahead, as the instructions of a block fill what the
    // processor looks ahead by itself.
    constexpr i64 kAhead = 1024;
    _mm_prefetch(reinterpret_cast<const char*>(words + step / 2 * kPanel + kAhead), _MM_HINT_T0);
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      const Codes codes = codes_of<F>(load_words(words + step / 2 * kPanel + h * W));
      even[h] = codes.even, odd[h] = codes.odd;
    }
  }
  TS_INLINE vf scale(const Part& t, const u32*, i64 group, int h) {
    const vf scale = load_as_float(t.w.scales, t.w.scale_type, t.scales + group * kPanel + h * W, W);
    return F == Format::fp4 ? scale * set1(0.5f) : scale;
  }
  TS_INLINE vf zeros(const Part& t, const u32*, i64 group, int h) {
    return ts::TS_ISA::load(t.w.zeros + t.scales + group * kPanel + h * W);
  }
};

template <Format F, int kBlock>
struct Widened {
  static constexpr i64 kWords = kBlockWords<F, kBlock>;
  TS_INLINE void load(const u32* words, int step, vi (&even)[kHalves], vi (&odd)[kHalves]) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h)
      even[h] = load_words(words + step * kPanel + h * W), odd[h] = load_words(words + (step + 1) * kPanel + h * W);
  }
  TS_INLINE vf scale(const Part&, const u32* words, i64, int h) {
    return ts::TS_ISA::load(reinterpret_cast<const float*>(words + kSteps<F, kBlock> * kPanel) + h * W);
  }
  TS_INLINE vf zeros(const Part&, const u32* words, i64, int h) {
    return ts::TS_ISA::load(reinterpret_cast<const float*>(words + (kSteps<F, kBlock> + 1) * kPanel) + h * W);
  }
};

template <class Source, Format F, int kParts, int kBlock, int kRows>
TS_INLINE void tile(const Part& t) {
  using Sums = BlockSums<F, kParts, kBlock, kRows>;
  // Sums of 16 bits hold 8 steps of two products below 16 * 128, or 4 of those below 25 * 128.
  constexpr int steps = kSteps<F, kBlock>, held = F == Format::fp4 && steps > 4 ? 4 : steps;
  vf acc[kRows][kHalves];
  for (int r = 0; r < kRows; ++r)
    for (int h = 0; h < kHalves; ++h) {
      const i64 left = t.columns - h * W;
      acc[r][h] = t.resume && left > 0 ? load_as_float(t.out + r * t.ldo + h * W, DType::f32, 0, left) : zero();
    }
  const u32 *words = t.words, *a = t.a;
  const BlockHead* heads = t.heads;
  for (i64 block = 0, group = 0, left = t.group; block < t.blocks; ++block) {
    Sums sums;
    vi whole[kRows][kHalves];
    if constexpr (F != Format::int8)
      for (int r = 0; r < kRows; ++r)
        for (vi& x : whole[r]) x = _mm256_set1_epi32(heads[r * t.head_stride].start[0]);
#pragma GCC unroll 2
    for (int first = 0; first < steps; first += held) {
      Sums::clear(sums);
#pragma GCC unroll 8
      for (int step = first; step < first + held; step += 2) {
        vi even[kHalves], odd[kHalves];
        Source::load(words, step, even, odd);
        Sums::add(sums, even, a, t.row_words, step);
        Sums::add(sums, odd, a, t.row_words, step + 1);
      }
      if constexpr (F != Format::int8)
        for (int r = 0; r < kRows; ++r)
          for (int h = 0; h < kHalves; ++h) whole[r][h] = _mm256_add_epi32(whole[r][h], Sums::whole(sums, r, h));
    }
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      const vf scale = Source::scale(t, words, group, h);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const BlockHead& head = heads[r * t.head_stride];
        vf sum;
        if constexpr (F == Format::int8) {
          sum = Sums::wide(sums, r, h);
        } else {
          sum = _mm256_cvtepi32_ps(whole[r][h]);
        }
        if constexpr (F == Format::int4_zero) sum = fma(Source::zeros(t, words, group, h), set1(-head.high), sum);
        acc[r][h] = fma(sum, scale * set1(head.scale), acc[r][h]);
      }
    }
    words += Source::kWords, a += kParts * steps, ++heads;
    if (--left == 0) left = t.group, ++group;
  }
  for (int r = 0; r < kRows; ++r)
    for (int h = 0; h < kHalves; ++h) {
      const i64 left = t.columns - h * W;
      if (left > 0) store_as(t.out + r * t.ldo + h * W, DType::f32, 0, acc[r][h], left);
    }
}

template <Format F, int kParts, int kBlock>
void packed_tile(const Part& t) {
  tile<Packed<F, kBlock>, F, kParts, kBlock, 1>(t);
}

template <Format F, int kParts, int kBlock, int kRows>
void widened_tile(const Part& t) {
  tile<Widened<F, kBlock>, F, kParts, kBlock, kRows>(t);
}

// Blocks [from, from + blocks) of one panel.
template <Format F, int kBlock>
void widen(const WeightView& w, i64 panel, i64 from, i64 blocks, u32* to) {
  constexpr int steps = kSteps<F, kBlock>;
  const u32* words = w.words + panel * w.panel_stride + from * (steps / 2) * kPanel;
  const auto put = [&](int at, vi x) TS_LAMBDA { _mm256_storeu_si256(reinterpret_cast<vi*>(to + at), x); };
  for (i64 block = from; block < from + blocks; ++block, to += kBlockWords<F, kBlock>) {
    for (int step = 0; step < steps; step += 2, words += kPanel)
      for (int h = 0; h < kHalves; ++h) {
        const Codes codes = codes_of<F>(load_words(words + h * W));
        put(step * kPanel + h * W, codes.even), put((step + 1) * kPanel + h * W, codes.odd);
      }
    const i64 at = panel * w.scale_panel_stride + block * kBlock / w.group * kPanel;
    for (int h = 0; h < kHalves; ++h) {
      float* factors = reinterpret_cast<float*>(to + steps * kPanel) + h * W;
      const vf scale = load_as_float(w.scales, w.scale_type, at + h * W, W);
      store(factors, F == Format::fp4 ? scale * set1(0.5f) : scale);
      if constexpr (F == Format::int4_zero) store(factors + kPanel, load(w.zeros + at + h * W));
    }
  }
}

template <Format F, int kParts, int kBlock>
void run_one(const WeightView& w, const DotRows& a, i64 row, i64 column, i64 columns, float* out) {
  for (i64 c = 0; c < columns; c += kPanel) {
    const i64 panel = (column + c) / kPanel;
    packed_tile<F, kParts, kBlock>({.words = w.words + panel * w.panel_stride,
                                    .w = w,
                                    .scales = panel * w.scale_panel_stride,
                                    .group = max_of(1, w.group / kBlock),
                                    .a = a.bytes + row * a.row_words,
                                    .heads = a.heads + row * a.blocks,
                                    .row_words = a.row_words,
                                    .head_stride = a.blocks,
                                    .blocks = a.blocks,
                                    .resume = false,
                                    .out = out + c,
                                    .ldo = 0,
                                    .columns = columns - c});
  }
}

// Each panel is widened once for kHeight rows, in parts of kDepth k: a part stays in the level-1 cache, and the rows'
// parts, 256 KB, in the level-2 cache while the panels pass by.
constexpr i64 kDepth = 1024, kHeight = 64;

template <Format F, int kParts, int kBlock>
void run_many(const WeightView& w, const DotRows& a, i64 row, i64 rows, i64 column, i64 columns, float* out, i64 ldo) {
  constexpr i64 depth = kDepth / kBlock, steps = kSteps<F, kBlock>;
  constexpr int kRows = kParts == 3 ? 1 : 2;  // what the registers hold
  u32* wide = scratch_of<u32>(Slot::weight_tile, depth * kBlockWords<F, kBlock>);
  const auto run_panel = [&](i64 first, i64 from, i64 c) {
    const i64 blocks = min_of(depth, a.blocks - from), end = min_of(first + kHeight, rows);
    widen<F, kBlock>(w, (column + c) / kPanel, from, blocks, wide);
    Part part{.words = wide,
              .w = w,
              .scales = 0,
              .group = 1,
              .a = a.bytes + (row + first) * a.row_words + from * kParts * steps,
              .heads = a.heads + (row + first) * a.blocks + from,
              .row_words = a.row_words,
              .head_stride = a.blocks,
              .blocks = blocks,
              .resume = from > 0,
              .out = out + first * ldo + c,
              .ldo = ldo,
              .columns = columns - c};
    for (i64 r = first; r < end; r += kRows) {
      r + kRows <= end ? widened_tile<F, kParts, kBlock, kRows>(part) : widened_tile<F, kParts, kBlock, 1>(part);
      part.a += kRows * a.row_words, part.heads += kRows * a.blocks, part.out += kRows * ldo;
    }
  };
  for (i64 first = 0; first < rows; first += kHeight)
    for (i64 from = 0; from < a.blocks; from += depth)
      for (i64 c = 0; c < columns; c += kPanel) run_panel(first, from, c);
}

template <Format F, int kBlock = 32>
void run(const WeightView& w, const DotRows& a, i64 row, i64 rows, i64 column, i64 columns, float* out, i64 ldo) {
  constexpr int few = parts_of(F, DType::bf16), many = parts_of(F, DType::f32);
  if (rows == 1) {
    a.parts == few ? run_one<F, few, kBlock>(w, a, row, column, columns, out)
                   : run_one<F, many, kBlock>(w, a, row, column, columns, out);
  } else {
    a.parts == few ? run_many<F, few, kBlock>(w, a, row, rows, column, columns, out, ldo)
                   : run_many<F, many, kBlock>(w, a, row, rows, column, columns, out, ldo);
  }
}

}  // namespace

void multiply_dots(const WeightView& w, const DotRows& a, i64 row, i64 rows, i64 column, i64 columns, float* out,
                   i64 ldo) {
  if (rows == 0) return;
  switch (w.format) {
    case Format::int4:
      return run<Format::int4>(w, a, row, rows, column, columns, out, ldo);
    case Format::int4_zero:
      return run<Format::int4_zero>(w, a, row, rows, column, columns, out, ldo);
    case Format::int8:
      return run<Format::int8>(w, a, row, rows, column, columns, out, ldo);
    case Format::fp4:
      return block_of(w) == 16 ? run<Format::fp4, 16>(w, a, row, rows, column, columns, out, ldo)
                               : run<Format::fp4>(w, a, row, rows, column, columns, out, ldo);
    case Format::f32:
    case Format::bf16:
    case Format::fp8:
      break;  // dots_serve is false
  }
}

}  // namespace ts::TS_ISA
