#include "ops/gemm.h"

#include "isa/vec.h"
#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

// Widens a strip of 32 columns and kDepth k at a time, past which all rows go: however long k is, a tile's panels (64
// KB each) then come from the level-2 cache. Sums go on from out in the order of k, so parts do not show.
template <Format F>
void multiply_widened(const WeightView& w, const Product& whole, i64 rows, i64 panel) {
  constexpr i64 kStrip = 2 * kPanel, kDepth = 1024;
  float* wide = scratch_of<float>(Slot::weight_tile, kDepth * kStrip);
  Product p = whole;
  for (i64 k = 0; k < w.k; k += kDepth) {
    p.a = whole.a + k, p.k = min_of(kDepth, w.k - k);
    p.start = k ? Start::from_out : Start::from_zero;
    for (i64 c = 0; c < whole.columns; c += kStrip) {
      p.columns = min_of(kStrip, whole.columns - c), p.out = whole.out + c;
      const i64 panels = ceil_div(p.columns, kPanel);
      expand<F>(operand_of(w, panel + c / kPanel), panels, k, k + p.k, wide);
      p.b = operand_of(wide, panels * kPanel);
      multiply<Format::f32>(p, rows);
    }
  }
}

template <Format F>
void multiply_format(const WeightView& w, const Product& p, i64 rows, i64 panel) {
  constexpr bool tall = F == Format::f32 || F == Format::bf16 || F == Format::int4;  // see the tiles of the others
  if constexpr (kHasDots && has_scales(F) && F != Format::fp8) {
    __builtin_trap();  // rows_for never sends them here
  } else if (rows >= (tall ? kExpandRows : 2)) {
    multiply_widened<F>(w, p, rows, panel);
  } else {
    multiply<F>(p, rows);
  }
}

}  // namespace

void multiply_panels(const WeightView& w, const float* a, i64 lda, i64 rows, i64 column, i64 columns, float* out,
                     i64 ldo) {
  const i64 panel = column / kPanel;
  const Product p{a, lda, operand_of(w, panel), w.k, out, ldo, columns};
  switch (w.format) {
    case Format::f32:
      return multiply_format<Format::f32>(w, p, rows, panel);
    case Format::bf16:
      return multiply_format<Format::bf16>(w, p, rows, panel);
    case Format::int4:
      return multiply_format<Format::int4>(w, p, rows, panel);
    case Format::int4_zero:
      return multiply_format<Format::int4_zero>(w, p, rows, panel);
    case Format::int8:
      return multiply_format<Format::int8>(w, p, rows, panel);
    case Format::fp8:
      return multiply_format<Format::fp8>(w, p, rows, panel);
    case Format::fp4:
      return multiply_format<Format::fp4>(w, p, rows, panel);
  }
}

const float* as_fp32(const void* x, i64 x_stride, i64 rows, i64 dim, DType dtype, Slot slot, i64* stride) {
  const bool apart = rows < 6 || spread(x_stride * 4) == x_stride * 4;
  *stride = dtype == DType::f32 && apart ? x_stride : spread(dim * 4) / 4;
  if (dtype == DType::f32 && apart) return static_cast<const float*>(x);
  float* copy = scratch_of<float>(slot, rows * *stride);
  for (i64 row = 0; row < rows; ++row)
    for (i64 i = 0; i < dim; i += W) {
      const vf v = load_as_float(at(x, dtype, row * x_stride), dtype, i, dim - i);
      store_as(copy + row * *stride, DType::f32, i, v, dim - i);
    }
  return copy;
}

Rows rows_for(Pool* pool, const WeightView& w, const Source& x, Slot slot) {
  Rows rows;
  if constexpr (kHasTiles) {
    if (x.activations == DType::bf16 && tiles_serve(w, x.rows)) {
      rows.tiles = tile_rows(pool, x.values, x.stride, x.rows, w.k, x.dtype, x.dtype == DType::bf16 ? 1 : 2, slot);
      return rows;
    }
  }
  if constexpr (kHasDots) {
    if (dots_serve(w, x.activations, x.dtype)) {
      rows.dots = dot_rows(pool, w, x.values, x.stride, x.rows, x.dtype, slot);
      return rows;
    }
  }
  rows.wide = as_fp32(x.values, x.stride, x.rows, w.k, x.dtype, slot, &rows.stride);
  return rows;
}

namespace {

void add_bias(const float* bias, i64 rows, i64 columns, float* out, i64 ldo) {
  for (i64 row = 0; row < rows; ++row)
    for (i64 i = 0; i < columns; i += W) {
      const vf sum =
          load_as_float(out + row * ldo, DType::f32, i, columns - i) + load_as_float(bias, DType::f32, i, columns - i);
      store_as(out + row * ldo, DType::f32, i, sum, columns - i);
    }
}

void multiply_unbiased(const WeightView& w, const Rows& a, i64 row, i64 rows, i64 column, i64 columns, float* out,
                       i64 ldo) {
  if constexpr (kHasTiles) {
    if (a.tiles.parts > 0) return multiply_tiles(w, a.tiles, row, rows, column, columns, out, ldo);
  }
  if constexpr (kHasDots) {
    if (a.dots.serve()) return multiply_dots(w, a.dots, row, rows, column, columns, out, ldo);
  }
  multiply_panels(w, a.wide + row * a.stride, a.stride, rows, column, columns, out, ldo);
}

}  // namespace

void multiply_rows(const WeightView& w, const Rows& a, i64 row, i64 rows, i64 column, i64 columns, float* out,
                   i64 ldo) {
  multiply_unbiased(w, a, row, rows, column, columns, out, ldo);
  if (w.bias) add_bias(w.bias + column, rows, columns, out, ldo);
}

void write_rows(const float* x, i64 x_stride, i64 rows, i64 dim, void* out, i64 out_stride, DType dtype) {
  for (i64 row = 0; row < rows; ++row)
    for (i64 i = 0; i < dim; i += W)
      store_as(at(out, dtype, row * out_stride), dtype, i, load_as_float(x + row * x_stride, DType::f32, i, dim - i),
               dim - i);
}

void multiply_shared(Pool& pool, const WeightView& w, const Rows& x, i64 rows, void* out, i64 out_stride,
                     DType out_dtype) {
  if (rows == 0) return;
  // 256 rows of a block stay in the level-2 cache while the block's columns pass by; 128 columns are the widest tile.
  // Where codes are widened for each block of rows, twice as many share that.
  const i64 row_block = min_of(rows, x.dots.pairs && has_scales(w.format) ? 512 : 256);
  const i64 row_blocks = ceil_div(rows, row_block);
  i64 column_block = rows < 6 ? 128 : 64;
  while (column_block < w.n && ceil_div(w.n, column_block) * row_blocks > 64) column_block *= 2;
  const i64 column_blocks = ceil_div(w.n, column_block);
  parallel(pool, row_blocks * column_blocks, rows * w.n * w.k, [&](i64 task) {
    const i64 row = task / column_blocks * row_block, column = task % column_blocks * column_block;
    const i64 height = min_of(row_block, rows - row), width = min_of(column_block, w.n - column);
    void* to = at(out, out_dtype, row * out_stride + column);
    if (out_dtype == DType::f32 && height < kExpandRows) {
      multiply_rows(w, x, row, height, column, width, static_cast<float*>(to), out_stride);
    } else {
      const i64 apart = width + kPanel;
      float* tile = scratch_of<float>(Slot::tile_out, height * apart);
      multiply_rows(w, x, row, height, column, width, tile, apart);
      write_rows(tile, apart, height, width, to, out_stride, out_dtype);
    }
  });
}

}  // namespace ts::TS_ISA
