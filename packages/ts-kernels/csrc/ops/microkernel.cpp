// Register-blocked matrix products: out[rows, columns] = a[rows, k] * b[k, columns], a and out fp32, b in any format.
//
// A tile keeps kRows x kVectors accumulators in registers; for each k it loads (and widens) kVectors of b and
// broadcasts kRows values of a. Each output element is one chain of multiply-adds in the order of k, whatever the
// tile's shape, so a row's result does not depend on how many rows are computed with it.
#include <utility>

#include "isa/vec.h"
#include "ops/product.h"

namespace ts::TS_ISA {
namespace {

constexpr int VP = static_cast<int>(kPanel) / W;  // vectors in a panel

template <Format F, int J>
TS_INLINE vf decode(vi word) {
  if constexpr (F == Format::f32) return as_float(word);
  if constexpr (F == Format::bf16) return J == 0 ? bf16_low(word) : bf16_high(word);
  if constexpr (F == Format::int4 || F == Format::int4_zero) return nibble<J>(word);
  if constexpr (F == Format::int8) return signed_byte<J>(word);
  if constexpr (F == Format::fp8) return e4m3_low<J>(word);
  if constexpr (F == Format::fp4) return e2m1<J>(word);
}

// What a group's codes are multiplied by, and with zero points what is added after that.
struct Factor {
  vf scale, offset;
};

// Codes of FP8 lack 2^120 as they are decoded. A group's scales are multiplied by that instead of each code, unless
// they are so large that this would overflow (`kApart`).
constexpr float kFp8Low = 0x1p120f, kFp8Largest = 128;

template <Format F, bool kApart>
TS_INLINE Factor factor_of(const Operand& b, i64 at) {
  if constexpr (!has_scales(F)) return {zero(), zero()};
  const vf scale = load_as_float(b.scales, b.scale_type, at, W);
  if constexpr (F == Format::int4_zero) return {scale, zero() - load(b.zeros + at) * scale};
  if constexpr (F == Format::fp8 && !kApart) return {scale * set1(kFp8Low), zero()};
  return {scale, zero()};
}

template <Format F, bool kApart>
TS_INLINE vf scaled(vf code, const Factor& f) {
  if constexpr (!has_scales(F)) return code;
  if constexpr (F == Format::int4_zero) return fma(code, f.scale, f.offset);
  if constexpr (F == Format::fp8 && kApart) return code * set1(kFp8Low) * f.scale;
  return code * f.scale;
}

template <Format F>
TS_INLINE bool scales_apart(const Operand& b, i64 at) {
  if constexpr (F != Format::fp8) return false;
  const vf scale = load_as_float(b.scales, b.scale_type, at, W);
  return hmax(max(scale, zero() - scale)) > kFp8Largest;
}

template <Format F, int kRows, int kVectors>
struct Tile {
  vf acc[kRows][kVectors];

  TS_INLINE void add(Tile& t, const vf (&b)[kVectors], const float* a, i64 lda) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const vf value = set1(a[r * lda]);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) t.acc[r][v] = fma(value, b[v], t.acc[r][v]);
    }
  }

  template <bool kApart, int J>
  TS_INLINE void step(Tile& t, const vi (&raw)[kVectors], const Factor (&factor)[kVectors], const float* a, i64 lda) {
    vf b[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) b[v] = scaled<F, kApart>(decode<F, J>(raw[v]), factor[v]);
    add(t, b, a + J, lda);
  }

  template <bool kApart, int... J>
  TS_INLINE void steps(Tile& t, const vi (&raw)[kVectors], const Factor (&factor)[kVectors], const float* a, i64 lda,
                       std::integer_sequence<int, J...>) {
    (step<kApart, J>(t, raw, factor, a, lda), ...);
  }

  // The first `count` steps of a unit, one by one: they are rare, and steps are most of what there is to compile.
  template <bool kApart, int... J>
  TS_INLINE void some_steps(Tile& t, const vi (&raw)[kVectors], const Factor (&factor)[kVectors], const float* a,
                            i64 lda, i64 count, std::integer_sequence<int, J...>) {
    vf wide[sizeof...(J)][kVectors];
    for (int v = 0; v < kVectors; ++v) ((wide[J][v] = scaled<F, kApart>(decode<F, J>(raw[v]), factor[v])), ...);
#pragma GCC unroll 1
    for (i64 j = 0; j < count; ++j) add(t, wide[j], a + j, lda);
  }

  TS_INLINE void load_unit(vi (&raw)[kVectors], const Operand& b, i64 u) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v)
      raw[v] = load_words(b.words + (v / VP) * b.panel_stride + (v % VP) * W + u * b.row_stride);
  }

  // Steps from k = `from` to `to`, which share their factors, those of group `group`; `from` is a multiple of the unit.
  template <bool kApart>
  TS_INLINE void multiply_group(Tile& t, const float* a, i64 lda, const Operand& b, i64 group, i64 from, i64 to) {
    constexpr i64 unit = unit_of(F);
    using Js = std::make_integer_sequence<int, static_cast<int>(unit)>;
    Factor factor[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) factor[v] = factor_of<F, kApart>(b, scale_at(b, group, v));
    vi raw[kVectors];
    i64 k = from;
    for (; k + unit <= to; k += unit) {
      load_unit(raw, b, k / unit);
      steps<kApart>(t, raw, factor, a + k, lda, Js{});
    }
    if (unit > 1 && k < to) {
      load_unit(raw, b, k / unit);
      some_steps<kApart>(t, raw, factor, a + k, lda, to - k, Js{});
    }
  }

  TS_INLINE i64 scale_at(const Operand& b, i64 group, int v) {
    return (v / VP) * b.scale_panel_stride + group * kPanel + (v % VP) * W;
  }

  TS_INLINE void multiply(Tile& t, const float* a, i64 lda, const Operand& b, i64 k) {
    if constexpr (!has_scales(F)) return multiply_group<false>(t, a, lda, b, 0, 0, k);
    for (i64 from = 0, group = 0; from < k; from += b.group, ++group) {
      const i64 to = min_of(from + b.group, k);
      bool apart = false;
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) apart |= scales_apart<F>(b, scale_at(b, group, v));
      if (apart) {
        multiply_group<F == Format::fp8>(t, a, lda, b, group, from, to);
      } else {
        multiply_group<false>(t, a, lda, b, group, from, to);
      }
    }
  }

  TS_INLINE void clear(Tile& t) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) t.acc[r][v] = zero();
  }

  // acc = out * factor[row] (factor null: out). Reads `columns` columns.
  TS_INLINE void resume(Tile& t, const float* out, i64 ldo, i64 columns, const float* factor) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const vf f = set1(factor ? factor[r] : 1.0f);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        const float* p = out + r * ldo + v * W;
        t.acc[r][v] = (columns >= kVectors * W ? load(p)
                       : columns > v * W       ? load_first(p, columns - v * W)
                                               : zero()) *
                      f;
      }
    }
  }

  TS_INLINE void write(const Tile& t, float* out, i64 ldo, i64 columns) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        float* p = out + r * ldo + v * W;
        if (columns >= kVectors * W) {
          store(p, t.acc[r][v]);
        } else if (columns > v * W) {
          store_first(p, t.acc[r][v], columns - v * W);
        }
      }
  }
};

template <Format F>
TS_INLINE void advance(Product& p, i64 panels) {
  p.b.words += panels * p.b.panel_stride;
  if constexpr (has_scales(F)) p.b.scales = at(p.b.scales, p.b.scale_type, panels * p.b.scale_panel_stride);
  if constexpr (F == Format::int4_zero) p.b.zeros += panels * p.b.scale_panel_stride;
  p.out += panels * kPanel;
  p.columns -= panels * kPanel;
}

// `count` tiles side by side. One call covers them: scores of a head of width 48 take 290 cycles a tile, a call
// some 50.
template <Format F, int kRows, int kPanels>
void run_tiles(Product p, i64 count) {
  using T = Tile<F, kRows, kPanels * VP>;
  for (; count > 0; --count) {
    T t;
    if (p.start == Start::from_zero) {
      T::clear(t);
    } else {
      T::resume(t, p.out, p.ldo, p.columns, p.factor);
    }
    T::multiply(t, p.a, p.lda, p.b, p.k);
    T::write(t, p.out, p.ldo, p.columns);
    advance<F>(p, kPanels);
  }
}

// The tallest tile for each width, in rows. 16 vector registers hold 12 (AVX2) or 8 (SSE2) accumulators beside the
// operands, 32 (AVX-512) 24.
#if defined(TS_WIDE_VECTORS)
constexpr int kTallest1 = 4, kTallest2 = 12, kTallest4 = 5, kTallest8 = 1;  // of width 1: the last of odd panels
#elif defined(TS_ISA_AVX2)
constexpr int kTallest1 = 6, kTallest2 = 1, kTallest4 = 0, kTallest8 = 0;
#else
constexpr int kTallest1 = 2, kTallest2 = 0, kTallest4 = 0, kTallest8 = 0;
#endif

// Formats other than these have tiles of one row: more rows are worth widening the weights first.
template <Format F>
constexpr int tallest(int height) {
  const bool tall = F == Format::f32 || F == Format::bf16 || F == Format::int4;
  return tall || height < 1 ? height : 1;
}

using TileFunction = void (*)(Product, i64);

template <Format F, int kPanels, int... R>
TS_INLINE TileFunction pick_tile(i64 rows, std::integer_sequence<int, R...>) {
  static constexpr TileFunction tiles[] = {run_tiles<F, R + 1, kPanels>..., nullptr};
  return tiles[rows - 1];
}

// As many tiles of this width as fit into p's columns (at least one where `ragged`); p moves past them.
template <Format F, int kPanels, int kTallest>
TS_INLINE void run_width(Product& p, i64 rows, bool ragged) {
  if constexpr (kTallest > 0) {
    const i64 panels = ceil_div(p.columns, kPanel), count = ragged ? ceil_div(panels, kPanels) : panels / kPanels;
    if (count <= 0) return;
    const i64 blocks = ceil_div(rows, kTallest);
    for (i64 block = 0; block < blocks; ++block) {  // blocks of equal height, to one row
      const i64 begin = rows * block / blocks, height = rows * (block + 1) / blocks - begin;
      Product part = p;
      part.a += begin * p.lda;
      part.out += begin * p.ldo;
      if (p.factor) part.factor += begin;
      pick_tile<F, kPanels>(height, std::make_integer_sequence<int, kTallest>{})(part, count);
    }
    advance<F>(p, count * kPanels);
  }
}

}  // namespace

template <Format F>
void multiply(const Product& whole, i64 rows) {
  constexpr int one = tallest<F>(kTallest1), two = tallest<F>(kTallest2), four = tallest<F>(kTallest4);
  constexpr int eight = F == Format::int4_zero ? 0 : tallest<F>(kTallest8);  // its offsets would not fit the registers
  if (rows <= 0) return;
  Product p = whole;
  if (rows <= eight) run_width<F, 8, eight>(p, rows, false);
  if (rows <= four) run_width<F, 4, four>(p, rows, false);
  if (rows <= two || two >= one) run_width<F, 2, two>(p, rows, false);
  run_width<F, 1, one>(p, rows, true);
}

namespace {

template <Format F, int... J>
TS_INLINE void expand_unit(const Operand& b, i64 u, i64 group, i64 panels, i64 k_left, float* out,
                           std::integer_sequence<int, J...>) {
  for (i64 v = 0; v < panels * VP; ++v) {
    const i64 panel = v / VP, lane = v % VP * W;
    const vi raw = load_words(b.words + panel * b.panel_stride + lane + u * b.row_stride);
    const Factor factor = factor_of<F, true>(b, panel * b.scale_panel_stride + group * kPanel + lane);
    float* to = out + v * W;
    const auto put = [&](vf x, i64 j) TS_LAMBDA {
      if (j < k_left) store(to + j * panels * kPanel, x);
    };
    (put(scaled<F, true>(decode<F, J>(raw), factor), J), ...);
  }
}

}  // namespace

template <Format F>
void expand(const Operand& b, i64 panels, i64 begin, i64 end, float* out) {
  constexpr i64 unit = unit_of(F);
  const i64 whole = has_scales(F) ? b.group : end;
  for (i64 from = begin, group = begin / whole; from < end; ++group) {
    const i64 to = min_of((group + 1) * whole, end);
    for (; from < to; from += unit)
      expand_unit<F>(b, from / unit, group, panels, to - from, out + (from - begin) * panels * kPanel,
                     std::make_integer_sequence<int, static_cast<int>(unit)>{});
    from = to;
  }
}

#define TS_PRODUCT(F)                                     \
  template void multiply<Format::F>(const Product&, i64); \
  template void expand<Format::F>(const Operand&, i64, i64, i64, float*);
TS_PRODUCT(f32)
TS_PRODUCT(bf16)
TS_PRODUCT(fp8)
#if !defined(TS_HAS_DOTS)  // which serve the others
TS_PRODUCT(int4)
TS_PRODUCT(int4_zero)
TS_PRODUCT(int8)
TS_PRODUCT(fp4)
#endif

}  // namespace ts::TS_ISA
