// Products on the dot-product instructions of AVX-512: bf16 pairs (VDPBF16PS) and bytes (VPDPBUSD).
//
// bf16 rows with bf16 weights are multiplied as they are, into fp32 sums; FP8 weights become bf16 (fp8_product.h).
//
// Weights of 4 or 8 bits are small whole numbers times a scale. A row is brought to fixed point, each block of 32 (or
// 16) numbers with an exponent of its own: 23 bits of fp32 rows, 15 of bf16 rows (which have 8). These are split into
// bytes, of which the instruction sums four products a lane exactly. Only the blocks' sums are rounded, in fp32. Three
// byte products of 64 cost less than the four multiply-adds of 16 that they replace, and the codes need no widening: on
// Zen 4 17 weights a cycle instead of 8, which is what it takes to read INT4 as fast as memory gives it.
//
// A tile form takes these products, too, from the instruction set whose vectors it uses. AVX2 has its own, of bytes and
// 16-bit numbers, in avx2/.
#pragma once

#include "ops/product.h"
#include "parallel/loop.h"

namespace ts::TS_PRODUCTS {

#if defined(TS_HAS_DOTS)
constexpr bool kHasDots = true;
#else
constexpr bool kHasDots = false;
#endif
#if defined(TS_ISA_AVX2)  // which has no instruction for pairs of bf16
constexpr bool kHasPairProducts = false;
#else
constexpr bool kHasPairProducts = kHasDots;
#endif

// One block of one row in fixed point: number = (first * 2^16 + second * 2^8 + third) * scale, or without the third and
// 2^8 less.
struct BlockHead {
  float scale;
  i32 start[3];     // per part: minus the weights' offset times the sum of its bytes (AVX2: the first, of all)
  float high, low;  // sums of the numbers, as first * 2^8 + second and third: what zero points are multiplied by
  float unused[2];
};

// Rows as the dot products read them: bf16, or fixed point of `parts` bytes.
struct DotRows {
  const u16* pairs = nullptr;
  i64 stride = 0;
  const float* sums = nullptr;  // of the blocks of pairs that are for weights of 4 bits: [row][block]
  const u32* bytes = nullptr;   // [row][block][part][block / 4]
  const BlockHead* heads = nullptr;
  i64 row_words = 0, blocks = 0;
  int parts = 0;

  bool serve() const { return pairs || bytes; }
};

// Whether these products serve rows of type `dtype` in a call whose activations are `activations`.
TS_INLINE bool dots_serve(const WeightView& w, DType activations, DType dtype) {
  if (w.format == Format::bf16 || w.format == Format::fp8)
    return kHasPairProducts && activations == DType::bf16 && dtype == DType::bf16;
  return has_scales(w.format);
}

// Rows of x, [rows, k], for products with w; in scratch of the calling thread, or x itself. `pool` may be null.
DotRows dot_rows(Pool* pool, const WeightView& w, const void* x, i64 x_stride, i64 rows, DType dtype, Slot slot);

// out = rows [row, row + rows) of a times columns [column, column + columns) of w; `column` is a multiple of 16.
void multiply_dots(const WeightView& w, const DotRows& a, i64 row, i64 rows, i64 column, i64 columns, float* out,
                   i64 ldo);

}  // namespace ts::TS_PRODUCTS
