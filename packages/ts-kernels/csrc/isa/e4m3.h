// e4m3 numbers of a cache as vectors of fp32, and back. NaN (0x7f) stays NaN, and no step meets a subnormal float: on
// Intel each one would cost an assist of some 150 cycles.
#pragma once

#include "isa/vec.h"

namespace ts::TS_ISA {

// Two vectors of consecutive numbers, each the number divided by kE4m3Unit: as bits of half floats, which the machine
// widens whether subnormal or not, those of e4m3 stand 2^8 too low.
#if defined(TS_WIDE_VECTORS)
constexpr float kE4m3Unit = 256;
TS_INLINE void widen_e4m3(const u8* from, vf& low, vf& high) {
  const vi words = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  const vi largest = _mm512_set1_epi16(0x7f);
  const __mmask32 nan = _mm512_cmpeq_epi16_mask(_mm512_and_si512(words, largest), largest);
  const vi bits = _mm512_and_si512(_mm512_slli_epi16(words, 7), _mm512_set1_epi16(static_cast<short>(0xbf80)));
  const vi halves = _mm512_mask_blend_epi16(nan, bits, _mm512_set1_epi16(0x7e00));
  low = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
  high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
}
#elif defined(TS_ISA_AVX2)
constexpr float kE4m3Unit = 256;
TS_INLINE void widen_e4m3(const u8* from, vf& low, vf& high) {
  const vi words = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  const vi largest = _mm256_set1_epi16(0x7f);
  const vi nan = _mm256_cmpeq_epi16(_mm256_and_si256(words, largest), largest);
  const vi bits = _mm256_and_si256(_mm256_slli_epi16(words, 7), _mm256_set1_epi16(static_cast<short>(0xbf80)));
  const vi halves = _mm256_blendv_epi8(bits, _mm256_set1_epi16(0x7e00), nan);
  low = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
  high = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
}
#else
constexpr float kE4m3Unit = 1;
TS_INLINE void widen_e4m3(const u8* from, vf& low, vf& high) {
  for (int i = 0; i < W; ++i) low[i] = e4m3_to_float(from[i]), high[i] = e4m3_to_float(from[W + i]);
}
#endif

// The first n numbers of a vector, likewise.
TS_INLINE vf widen_e4m3_first(const u8* from, i64 n) {
  u8 lanes[2 * W] = {};
  std::memcpy(lanes, from, static_cast<std::size_t>(min_of(n, W)));
  vf low, high;
  widen_e4m3(lanes, low, high);
  return low;
}

// As float_to_e4m3, in a form that compilers make vectors of.
TS_INLINE void narrow_e4m3(const float* __restrict from, i64 count, u8* __restrict to) {
  for (i64 i = 0; i < count; ++i) {
    const u32 bits = __builtin_bit_cast(u32, from[i]), magnitude = bits & 0x7fffffffu;
    const u32 small = __builtin_bit_cast(u32, __builtin_bit_cast(float, magnitude) + 0x1p14f) & 0xfu;
    const u32 normal = ((magnitude + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20) - (120u << 3);
    const u32 number = magnitude < 0x3c800000u ? small : magnitude < 0x43e00000u ? normal : 0x7eu;
    to[i] = static_cast<u8>((bits >> 24 & 0x80u) | (magnitude > 0x7f800000u ? 0x7fu : number));
  }
}

}  // namespace ts::TS_ISA
