// Products with packed weights, as the linear layers, the experts and MLA's projections use them.
#pragma once

#include "dots/dot_product.h"
#include "ops/product.h"
#include "parallel/loop.h"
#include "tiles/tile_product.h"

namespace ts::TS_ISA {

// From this many rows on, panels are widened once into fp32 scratch instead of in registers for each block of rows (of
// INT8, FP8 and FP4 from two on), and fp32 results, whose rows may be any distance apart, come from scratch, too.
constexpr i64 kExpandRows = 48;

// out[rows, columns] = a[rows, k] * columns [column, column + columns) of w; `column` is a multiple of 16.
void multiply_panels(const WeightView& w, const float* a, i64 lda, i64 rows, i64 column, i64 columns, float* out,
                     i64 ldo);

// `rows` rows of x as fp32: x itself where it already is, else a dense copy in `slot`.
const float* as_fp32(const void* x, i64 x_stride, i64 rows, i64 dim, DType dtype, Slot slot, i64* stride);

// What a product multiplies. `values` may be fp32 in a call whose activations are bf16 (between two layers).
struct Source {
  const void* values;
  i64 stride, rows;
  DType dtype;
  DType activations;
};

// The rows as the product with one weight reads them: fp32, or what tiles or dot products take where those serve.
struct Rows {
  const float* wide = nullptr;
  i64 stride = 0;
  TileRows tiles{};
  DotRows dots{};
};

// Lives in the calling thread's `slot`; `pool` may be null.
Rows rows_for(Pool* pool, const WeightView& w, const Source& x, Slot slot);

// out = rows [row, row + rows) of a times columns [column, column + columns) of w, plus its bias; both begin at a
// multiple of 16.
void multiply_rows(const WeightView& w, const Rows& a, i64 row, i64 rows, i64 column, i64 columns, float* out, i64 ldo);

// out[i] = x[i] in out's type.
void write_rows(const float* x, i64 x_stride, i64 rows, i64 dim, void* out, i64 out_stride, DType dtype);

// out = x * w, shared among threads; x's rows were made for w.
void multiply_shared(Pool& pool, const WeightView& w, const Rows& x, i64 rows, void* out, i64 out_stride,
                     DType out_dtype);

}  // namespace ts::TS_ISA
