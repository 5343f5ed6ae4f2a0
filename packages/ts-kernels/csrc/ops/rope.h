// Rotation of pairs; that of adjacent ones is shared by rope.cpp and latent_cache.cpp.
#pragma once

#include "isa/vec.h"

namespace ts::TS_ISA {

// out[2i], out[2i+1] = rotation of (x[2i], x[2i+1]) by the angle of pair i. The pairs are few (rope_dim is 16 to 64),
// so the gain of shuffled vectors would be tens of nanoseconds a token.
TS_INLINE void rotate_pairs(const void* x, DType dtype, i64 rope_dim, const float* cos_sin, void* out,
                            DType out_dtype) {
  const i64 half = rope_dim / 2;
  for (i64 i = 0; i < half; ++i) {
    const float c = cos_sin[i], s = cos_sin[half + i];
    const float even = load_scalar(x, dtype, 2 * i), odd = load_scalar(x, dtype, 2 * i + 1);
    const float rotated[2] = {even * c - odd * s, odd * c + even * s};
    for (int j = 0; j < 2; ++j) {
      if (out_dtype == DType::f32) {
        static_cast<float*>(out)[2 * i + j] = rotated[j];
      } else {
        static_cast<u16*>(out)[2 * i + j] = float_to_bf16(rotated[j]);
      }
    }
  }
}

// Pairs (i, i + rope_dim / 2), in place.
TS_INLINE void rotate_halves(void* x, DType dtype, i64 rope_dim, const float* cos_sin) {
  const i64 half = rope_dim / 2;
  void* high = at(x, dtype, half);
  for (i64 i = 0; i < half; i += W) {
    const i64 n = half - i;
    const vf c = load_as_float(cos_sin, DType::f32, i, n), s = load_as_float(cos_sin + half, DType::f32, i, n);
    const vf a = load_as_float(x, dtype, i, n), b = load_as_float(high, dtype, i, n);
    store_as(x, dtype, i, a * c - b * s, n);
    store_as(high, dtype, i, b * c + a * s, n);
  }
}

}  // namespace ts::TS_ISA
