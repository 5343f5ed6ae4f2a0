// RMS norm, alone or after a residual addition, and layer norm.
#include <cmath>

#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

// Four partial sums: one chain of additions would cost the latency of each (4 cycles on Skylake) per vector.
template <bool kResidual>
TS_INLINE float sum_of_squares(const NormArgs& a, const void* x, void* residual) {
  vf sums[4] = {zero(), zero(), zero(), zero()};
  int turn = 0;
  for (i64 i = 0; i < a.dim; i += W) {
    const i64 n = a.dim - i;
    vf v = load_as_float(x, a.dtype, i, n);
    if constexpr (kResidual) {
      v = v + load_as_float(residual, a.dtype, i, n);
      store_as(residual, a.dtype, i, v, n);
      if (a.dtype == DType::bf16) v = load_as_float(residual, a.dtype, i, n);  // what was stored is what is normed
    }
    sums[turn] = fma(v, v, sums[turn]);
    turn = (turn + 1) & 3;
  }
  return hsum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <bool kResidual>
void norm_rows(const NormArgs& a, i64 begin, i64 end) {
  for (i64 row = begin; row < end; ++row) {
    const void* x = at(a.x, a.dtype, row * a.x_stride);
    void* residual = kResidual ? at(a.residual, a.dtype, row * a.dim) : nullptr;
    void* out = at(a.out, a.dtype, row * a.dim);
    const float total = sum_of_squares<kResidual>(a, x, residual);
    const vf factor = set1(1.0f / std::sqrt(total / static_cast<float>(a.dim) + a.eps));
    const void* source = kResidual ? residual : x;
    for (i64 i = 0; i < a.dim; i += W) {
      const i64 n = a.dim - i;
      const vf v = load_as_float(source, a.dtype, i, n) * factor;
      store_as(out, a.dtype, i, v * load_as_float(a.weight, a.weight_dtype, i, n), n);
    }
  }
}

// Sum over a row of step(value); four partial sums as above.
template <class Step>
TS_INLINE float sum_of(const void* x, DType dtype, i64 dim, const Step& step) {
  vf sums[4] = {zero(), zero(), zero(), zero()};
  int turn = 0;
  for (i64 i = 0; i < dim; i += W, turn = (turn + 1) & 3)
    sums[turn] = sums[turn] + keep_first(step(load_as_float(x, dtype, i, dim - i)), min_of(dim - i, W), zero());
  return hsum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// The variance is taken about the mean, in a second pass: as a difference of squares it would cancel.
void layer_norm_row(const LayerNormArgs& a, i64 row) {
  const void* x = at(a.x, a.dtype, row * a.x_stride);
  void* out = at(a.out, a.dtype, row * a.dim);
  const float width = static_cast<float>(a.dim);
  const vf first = set1(sum_of(x, a.dtype, a.dim, [](vf v) TS_LAMBDA { return v; }) / width);
  // What it is off by, which shows where the mean is large against the deviation.
  const vf off = set1(sum_of(x, a.dtype, a.dim, [&](vf v) TS_LAMBDA { return v - first; }) / width);
  const float squares = sum_of(x, a.dtype, a.dim, [&](vf v) TS_LAMBDA {
    const vf centred = v - first - off;
    return centred * centred;
  });
  const vf factor = set1(1.0f / std::sqrt(squares / width + a.eps));
  for (i64 i = 0; i < a.dim; i += W) {
    const i64 n = a.dim - i;
    const vf v = (load_as_float(x, a.dtype, i, n) - first - off) * factor;
    store_as(out, a.dtype, i,
             fma(v, load_as_float(a.weight, a.weight_dtype, i, n), load_as_float(a.bias, a.weight_dtype, i, n)), n);
  }
}

}  // namespace

void layer_norm(Pool& pool, const LayerNormArgs& a) {
  constexpr i64 kRows = 32;
  parallel(pool, ceil_div(a.rows, kRows), a.rows * a.dim * 24, [&](i64 task) {
    for (i64 row = task * kRows; row < min_of((task + 1) * kRows, a.rows); ++row) layer_norm_row(a, row);
  });
}

void norm(Pool& pool, const NormArgs& a) {
  constexpr i64 kRows = 64;
  parallel(pool, ceil_div(a.rows, kRows), a.rows * a.dim * 16, [&](i64 task) {
    const i64 begin = task * kRows, end = min_of(begin + kRows, a.rows);
    a.residual ? norm_rows<true>(a, begin, end) : norm_rows<false>(a, begin, end);
  });
}

}  // namespace ts::TS_ISA
