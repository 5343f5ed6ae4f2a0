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
  if constexpr (F == Format::int4) return nibble<J>(word);
}

template <Format F, int kRows, int kVectors>
struct Tile {
  vf acc[kRows][kVectors];

  template <int J>
  TS_INLINE void step(Tile& t, const vi (&raw)[kVectors], const vf (&scale)[kVectors], const float* a, i64 lda) {
    vf b[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      b[v] = decode<F, J>(raw[v]);
      if constexpr (F == Format::int4) b[v] = b[v] * scale[v];
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const vf value = set1(a[r * lda + J]);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) t.acc[r][v] = fma(value, b[v], t.acc[r][v]);
    }
  }

  template <int... J>
  TS_INLINE void steps(Tile& t, const vi (&raw)[kVectors], const vf (&scale)[kVectors], const float* a, i64 lda,
                       i64 count, std::integer_sequence<int, J...>) {
    ((J < count ? step<J>(t, raw, scale, a, lda) : void()), ...);
  }

  TS_INLINE void load_unit(vi (&raw)[kVectors], const Operand& b, i64 u) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v)
      raw[v] = load_words(b.words + (v / VP) * b.panel_stride + (v % VP) * W + u * b.row_stride);
  }

  TS_INLINE void multiply(Tile& t, const float* a, i64 lda, const Operand& b, i64 k) {
    constexpr i64 unit = F == Format::f32 ? 1 : F == Format::bf16 ? 2 : 8;
    constexpr i64 units_per_group = F == Format::int4 ? kGroup / unit : 1 << 30;
    using Js = std::make_integer_sequence<int, static_cast<int>(unit)>;
    vi raw[kVectors];
    vf scale[kVectors];
    const i64 units = k / unit;
    for (i64 u = 0; u < units; ++u) {
      if constexpr (F == Format::int4) {
        if (u % units_per_group == 0) load_scales(scale, b, u / units_per_group);
      }
      load_unit(raw, b, u);
      steps(t, raw, scale, a + u * unit, lda, unit, Js{});
    }
    if (units * unit < k) {
      load_unit(raw, b, units);
      steps(t, raw, scale, a + units * unit, lda, k - units * unit, Js{});
    }
  }

  TS_INLINE void load_scales(vf (&scale)[kVectors], const Operand& b, i64 group) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v)
      scale[v] = load_bf16(b.scales + (v / VP) * b.scale_panel_stride + group * kPanel + (v % VP) * W);
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
  if constexpr (F == Format::int4) p.b.scales += panels * p.b.scale_panel_stride;
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

// The tallest tile for each width, in rows. 16 vector registers (AVX2, SSE2) hold 8 to 10 accumulators beside the
// operands, 32 (AVX-512) 24.
#if defined(TS_ISA_AVX512)
constexpr int kTallest1 = 12, kTallest2 = 12, kTallest4 = 5, kTallest8 = 1;
#elif defined(TS_ISA_AVX2)
constexpr int kTallest1 = 5, kTallest2 = 1, kTallest4 = 0, kTallest8 = 0;
#else
constexpr int kTallest1 = 2, kTallest2 = 0, kTallest4 = 0, kTallest8 = 0;
#endif

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
  if (rows <= 0) return;
  Product p = whole;
  if (rows <= kTallest8) run_width<F, 8, kTallest8>(p, rows, false);
  if (rows <= kTallest4) run_width<F, 4, kTallest4>(p, rows, false);
  if (rows <= kTallest2 || kTallest2 >= kTallest1) run_width<F, 2, kTallest2>(p, rows, false);
  run_width<F, 1, kTallest1>(p, rows, true);
}

namespace {

template <Format F, int... J>
TS_INLINE void expand_unit(const Operand& b, i64 u, i64 panels, i64 k_left, float* out,
                           std::integer_sequence<int, J...>) {
  constexpr i64 unit = sizeof...(J);
  for (i64 v = 0; v < panels * VP; ++v) {
    const i64 panel = v / VP, lane = v % VP * W;
    const vi raw = load_words(b.words + panel * b.panel_stride + lane + u * b.row_stride);
    vf scale = zero();
    if constexpr (F == Format::int4)
      scale = load_bf16(b.scales + panel * b.scale_panel_stride + u * unit / kGroup * kPanel + lane);
    float* to = out + v * W;
    const auto put = [&](vf x, i64 j) TS_LAMBDA {
      if (j < k_left) store(to + j * panels * kPanel, F == Format::int4 ? x * scale : x);
    };
    (put(decode<F, J>(raw), J), ...);
  }
}

}  // namespace

template <Format F>
void expand(const Operand& b, i64 panels, i64 k, float* out) {
  constexpr i64 unit = F == Format::f32 ? 1 : F == Format::bf16 ? 2 : 8;
  for (i64 u = 0; u * unit < k; ++u)
    expand_unit<F>(b, u, panels, k - u * unit, out + u * unit * panels * kPanel,
                   std::make_integer_sequence<int, static_cast<int>(unit)>{});
}

template void multiply<Format::f32>(const Product&, i64);
template void multiply<Format::bf16>(const Product&, i64);
template void multiply<Format::int4>(const Product&, i64);
template void expand<Format::f32>(const Operand&, i64, i64, float*);
template void expand<Format::bf16>(const Operand&, i64, i64, float*);
template void expand<Format::int4>(const Operand&, i64, i64, float*);

}  // namespace ts::TS_ISA
