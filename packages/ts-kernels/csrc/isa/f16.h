// Half floats, read and written as vectors of fp32.
#pragma once

#include "isa/vec.h"

namespace ts::TS_ISA {

#if defined(TS_WIDE_VECTORS)
TS_INLINE vf load_f16_first(const u16* p, i64 n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p)); }
TS_INLINE void store_f16_first(u16* p, vf x, i64 n) {
  _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif defined(TS_ISA_AVX2)
TS_INLINE vf load_f16_first(const u16* p, i64 n) {
  u16 lanes[W] = {};
  std::memcpy(lanes, p, static_cast<std::size_t>(min_of(n, W)) * 2);
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(lanes)));
}
TS_INLINE void store_f16_first(u16* p, vf x, i64 n) {
  u16 lanes[W];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lanes), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  std::memcpy(p, lanes, static_cast<std::size_t>(min_of(n, W)) * 2);
}
#else
// The bits stand 2^112 too low among those of a float, subnormal or not; infinities and NaN keep their exponent.
TS_INLINE float f16_to_float(u16 h) {
  const u32 magnitude = h & 0x7fffu;
  u32 bits = magnitude << 13;
  float f;
  std::memcpy(&f, &bits, 4);
  f *= 0x1p112f;
  std::memcpy(&bits, &f, 4);
  if (magnitude >= 0x7c00u) bits |= 0x7f800000u | magnitude << 13;
  bits |= static_cast<u32>(h & 0x8000u) << 16;
  std::memcpy(&f, &bits, 4);
  return f;
}

// Round to nearest even; what is too large becomes infinite, NaN stays NaN.
TS_INLINE u16 float_to_f16(float f) {
  u32 bits;
  std::memcpy(&bits, &f, 4);
  const u32 sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<u16>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<u16>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // below 2^-14: in steps of 2^-24, which the addition rounds to
    float small;
    std::memcpy(&small, &magnitude, 4);
    small += 0.5f;
    std::memcpy(&bits, &small, 4);
    return static_cast<u16>(sign | (bits - 0x3f000000u));
  }
  return static_cast<u16>(sign | ((magnitude + 0xfffu + (magnitude >> 13 & 1u)) >> 13) - (112u << 10));
}

TS_INLINE vf load_f16_first(const u16* p, i64 n) {
  vf x{};
  for (i64 i = 0; i < n && i < W; ++i) x[i] = f16_to_float(p[i]);
  return x;
}
TS_INLINE void store_f16_first(u16* p, vf x, i64 n) {
  for (i64 i = 0; i < n && i < W; ++i) p[i] = float_to_f16(x[i]);
}
#endif

}  // namespace ts::TS_ISA
