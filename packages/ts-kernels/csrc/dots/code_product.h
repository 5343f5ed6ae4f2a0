// Products of many bf16 rows with weights of 4 bits, on VDPBF16PS: the codes of a strip of weights are brought to bf16
// once for all rows, which is exact.
//
// A row's result is bit by bit the one of dot_product.h's bytes, which serve fewer rows: rows are rounded to the same
// fixed point, so that a block's products and their sums are whole multiples of one power of two below 2^24 of it, and
// no addition in fp32 rounds.
#pragma once

#include "dots/dot_product.h"

namespace ts::TS_ISA {

// With 32 rows of weights that come from memory the bytes are 8 % faster, with 64 these are 5 % (Zen 4).
constexpr i64 kManyRows = 48;

TS_INLINE bool codes_serve(const WeightView& w, DType dtype, i64 rows) {
  return dtype == DType::bf16 && unit_of(w.format) == 8 && rows >= kManyRows;
}

// The rows for multiply_codes. False, and nothing is served, where a number is so large that a sum could overflow.
bool code_rows(Pool* pool, const WeightView& w, const void* x, i64 x_stride, i64 rows, Slot slot, DotRows& out);

// As multiply_dots.
void multiply_codes(const WeightView& w, const DotRows& a, i64 row, i64 rows, i64 column, i64 columns, float* out,
                    i64 ldo);

}  // namespace ts::TS_ISA
