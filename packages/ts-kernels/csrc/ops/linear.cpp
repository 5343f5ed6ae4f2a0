// Linear layers and gated MLPs.
#include "ops/gemm.h"
#include "ops/ops.h"

namespace ts::TS_ISA {

void linear(Pool& pool, const LinearArgs& a) {
  const Rows x = rows_for(&pool, *a.weight, {a.x, a.x_stride, a.rows, a.dtype, a.dtype}, Slot::rows_in);
  multiply_shared(pool, *a.weight, x, a.rows, a.out, a.out_stride, a.out_dtype);
}

void mlp(Pool& pool, const MlpArgs& a) {
  const i64 inter = a.down->k, dim = a.down->n;
  constexpr i64 kRows = 256;  // the hidden rows of a block stay in the cache between the two products
  for (i64 row = 0; row < a.rows; row += kRows) {
    const i64 rows = min_of(kRows, a.rows - row);
    const void* from = at(a.x, a.dtype, row * a.x_stride);
    const Rows x = rows_for(&pool, *a.gate_up, {from, a.x_stride, rows, a.dtype, a.dtype}, Slot::rows_in);
    float* hidden = scratch_of<float>(Slot::hidden, rows * 2 * inter);
    float* activated = scratch_of<float>(Slot::activated, rows * inter);
    multiply_shared(pool, *a.gate_up, x, rows, hidden, 2 * inter, DType::f32);
    silu_mul(pool, {hidden, 2 * inter, activated, rows, inter, DType::f32});
    const Rows between = rows_for(&pool, *a.down, {activated, inter, rows, DType::f32, a.dtype}, Slot::rows_between);
    multiply_shared(pool, *a.down, between, rows, at(a.out, a.dtype, row * dim), dim, a.dtype);
  }
}

}  // namespace ts::TS_ISA
