// Matrix products out[rows, columns] = a[rows, k] * b[k, columns]: a and out fp32, b in any format.
#pragma once

#include "layout/packed.h"

// A tile form takes these products from the instruction set whose vectors it uses.
#if defined(TS_VECTORS)
#define TS_PRODUCTS TS_VECTORS
#else
#define TS_PRODUCTS TS_ISA
#endif

// Quantized weights but FP8 are multiplied by dots/ alone.
#if defined(TS_ISA_AVX2) || defined(TS_ISA_AVX512_BF16) || defined(TS_ISA_AMX)
#define TS_HAS_DOTS 1
#endif

namespace ts::TS_PRODUCTS {

// b's words: unit u of panel p (16 columns) lies at words + p * panel_stride + u * row_stride. Scales as in WeightView.
struct Operand {
  const u32* words;
  i64 panel_stride, row_stride;
  const void* scales = nullptr;
  DType scale_type = DType::bf16;
  i64 scale_panel_stride = 0, group = 0;
  const float* zeros = nullptr;
};

TS_INLINE Operand operand_of(const WeightView& w, i64 panel) {
  Operand b{w.words + panel * w.panel_stride, w.panel_stride, w.row_stride};
  if (!w.scales) return b;
  b.scales = at(w.scales, w.scale_type, panel * w.scale_panel_stride), b.scale_type = w.scale_type;
  b.scale_panel_stride = w.scale_panel_stride, b.group = w.group;
  if (w.zeros) b.zeros = w.zeros + panel * w.scale_panel_stride;
  return b;
}

// A row-major fp32 matrix.
TS_INLINE Operand operand_of(const float* matrix, i64 row_stride) {
  return {reinterpret_cast<const u32*>(matrix), kPanel, row_stride};
}

enum class Start { from_zero, from_out };

// factor: with from_out, what each row of out is multiplied by first (null: 1).
struct Product {
  const float* a;
  i64 lda;
  Operand b;
  i64 k;
  float* out;
  i64 ldo;
  i64 columns;
  Start start = Start::from_zero;
  const float* factor = nullptr;
};

// The whole product. b is padded to whole panels; out is written in `columns` columns only.
template <Format F>
void multiply(const Product& p, i64 rows);

// k from `begin`, a multiple of 16, to `end` of `panels` panels of b, as row-major fp32 [end - begin][panels * 16].
template <Format F>
void expand(const Operand& b, i64 panels, i64 begin, i64 end, float* out);

}  // namespace ts::TS_PRODUCTS

namespace ts::TS_ISA {
using namespace ts::TS_PRODUCTS;
}
