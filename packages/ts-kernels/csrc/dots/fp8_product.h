// Products of bf16 rows with FP8 weights, on VDPBF16PS: e4m3 codes are brought to bf16, which is exact.
#pragma once

#include "dots/dot_product.h"

namespace ts::TS_ISA {

// As multiply_dots; a.pairs are the rows as they are.
void multiply_fp8(const WeightView& w, const DotRows& a, i64 row, i64 rows, i64 column, i64 columns, float* out,
                  i64 ldo);

}  // namespace ts::TS_ISA
