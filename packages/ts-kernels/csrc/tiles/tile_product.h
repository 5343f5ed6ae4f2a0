// Products of bf16 rows with bf16 and INT4 (groups of 32, bf16 scales) weights on tile registers.
#pragma once

#include "layout/packed.h"
#include "parallel/loop.h"

namespace ts::TS_ISA {

#if defined(TS_VECTORS)
constexpr bool kHasTiles = true;
#else
constexpr bool kHasTiles = false;
#endif

// Rows as tiles read them: `parts` bf16 matrices that add up to the rows, each padded with zeros to whole tiles.
struct TileRows {
  const u16* values = nullptr;
  i64 stride = 0, part_stride = 0;
  int parts = 0;
};

// Whether `rows` rows of weights in this format are worth a tile product.
//
// A tile product takes 16 cycles for 16 columns and 32 k, however many of its 16 rows are used; vectors take 16 cycles
// a row (two AVX-512 multiply-adds of 16 a cycle) and have no rows to lay out. INT4 takes two products, and some 100
// cycles to convert the weights: vectors are done with 8 rows by then.
TS_INLINE bool tiles_serve(const WeightView& w, i64 rows) {
  if (w.format == Format::int4) return rows >= 16 && w.group % kGroup == 0 && w.scale_type == DType::bf16;
  return w.format == Format::bf16 && rows >= 8;
}

// `rows` rows of x, [rows, k], as one part (x holds bf16 values) or two (the nearest bf16, and that of what is left: 16
// bits of mantissa), in scratch of the calling thread. `pool` may be null: inside a parallel loop.
TileRows tile_rows(Pool* pool, const void* x, i64 x_stride, i64 rows, i64 k, DType dtype, int parts, Slot slot);

// out = rows [row, row + rows) of a times columns [column, column + columns) of w; `row` and `column` are multiples
// of 16.
//
// An output element is summed in one order, whatever the number of rows and the place among them.
void multiply_tiles(const WeightView& w, const TileRows& a, i64 row, i64 rows, i64 column, i64 columns, float* out,
                    i64 ldo);

}  // namespace ts::TS_ISA
