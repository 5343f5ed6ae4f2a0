// act(gate) * up, and GELU.
#include "ops/gated.h"
#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

constexpr i64 kRows = 16;

template <class Body>
void each_row(Pool& pool, i64 rows, i64 width, const Body& body) {
  parallel(pool, ceil_div(rows, kRows), rows * width * 16, [&](i64 task) {
    for (i64 row = task * kRows; row < min_of((task + 1) * kRows, rows); ++row) body(row);
  });
}

struct Pair {
  vf gate, up;
};

// Lanes past the end are zero.
TS_INLINE Pair load_side_by_side(const void* pairs, DType dtype, i64 i, i64 n) {
  float gate[W] = {}, up[W] = {};
  for (i64 lane = 0; lane < min_of(n, W); ++lane) {
    gate[lane] = load_scalar(pairs, dtype, 2 * (i + lane));
    up[lane] = load_scalar(pairs, dtype, 2 * (i + lane) + 1);
  }
  return {load(gate), load(up)};
}

}  // namespace

void gated(Pool& pool, const GatedArgs& a) {
  each_row(pool, a.rows, a.inter, [&](i64 row) {
    const void* gate = at(a.gate_up, a.dtype, row * a.stride);
    const void* up = at(a.gate_up, a.dtype, row * a.stride + a.inter);
    void* out = at(a.out, a.dtype, row * a.inter);
    for (i64 i = 0; i < a.inter; i += W) {
      const i64 n = a.inter - i;
      const Pair pair = a.interleaved ? load_side_by_side(gate, a.dtype, i, n)
                                      : Pair{load_as_float(gate, a.dtype, i, n), load_as_float(up, a.dtype, i, n)};
      store_as(out, a.dtype, i, gated_value(a.activation, pair.gate, pair.up), n);
    }
  });
}

void silu_mul(Pool& pool, const SiluMulArgs& a) {
  gated(pool, {a.gate_up, a.stride, a.out, a.rows, a.inter, a.dtype, {}, false});
}

void gelu(Pool& pool, const GeluArgs& a) {
  each_row(pool, a.rows, a.dim, [&](i64 row) {
    const void* x = at(a.x, a.dtype, row * a.stride);
    void* out = at(a.out, a.dtype, row * a.dim);
    for (i64 i = 0; i < a.dim; i += W) {
      const vf value = load_as_float(x, a.dtype, i, a.dim - i);
      store_as(out, a.dtype, i, a.tanh ? gelu_by_tanh(value) : gelu_by_erf(value), a.dim - i);
    }
  });
}

}  // namespace ts::TS_ISA
