// Rows to e4m3 with a scale for each group of columns. Compiled once, for any machine: no native product reads FP8
// rows.
#pragma once

#include "common/types.h"

namespace ts {

struct Fp8Args {
  const void* x;
  i64 x_stride, rows, dim;
  DType dtype;
  i64 group;  // columns that share a scale
  unsigned char* values;
  float* scales;  // [rows, ceil(dim / group)]
};

void quantize_fp8(const Fp8Args& a);

}  // namespace ts
