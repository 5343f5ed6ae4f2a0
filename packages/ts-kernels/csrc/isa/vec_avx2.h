// Vectors of 8 floats: AVX2 and FMA.
#pragma once

#include <immintrin.h>

#include "common/types.h"

namespace ts::TS_ISA {

using vf = __m256;
using vi = __m256i;
constexpr int W = 8;

TS_INLINE vi first(i64 n) {
  const vi lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}

TS_INLINE vf zero() { return _mm256_setzero_ps(); }
TS_INLINE vf set1(float x) { return _mm256_set1_ps(x); }
TS_INLINE vf load(const float* p) { return _mm256_loadu_ps(p); }
TS_INLINE vf load_first(const float* p, i64 n) { return _mm256_maskload_ps(p, first(n)); }
TS_INLINE void store(float* p, vf x) { _mm256_storeu_ps(p, x); }
TS_INLINE void store_first(float* p, vf x, i64 n) { _mm256_maskstore_ps(p, first(n), x); }

TS_INLINE vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
TS_INLINE vf max(vf a, vf b) { return _mm256_max_ps(a, b); }
TS_INLINE vf min(vf a, vf b) { return _mm256_min_ps(a, b); }
TS_INLINE vf round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// x * 2^n for integral n and x in [0.5, 2]; what would be subnormal becomes 0, from n = 128 on it is infinite.
TS_INLINE vf scale2(vf x, vf n) {
  const vf clamped = max(min(n, set1(128)), set1(-127));
  const vi bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(clamped), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(x, _mm256_castsi256_ps(bits));
}
TS_INLINE float hsum(vf a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
TS_INLINE float hmax(vf a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
// Lane i is the sum of a[i]'s lanes.
TS_INLINE vf sums_of(const vf (&a)[8]) {
  const vf x = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
  const vf y = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
}
// The first n lanes of a, the others `other`.
TS_INLINE vf keep_first(vf a, i64 n, vf other) { return _mm256_blendv_ps(other, a, _mm256_castsi256_ps(first(n))); }

TS_INLINE vi load_words(const u32* p) { return _mm256_loadu_si256(reinterpret_cast<const vi*>(p)); }
TS_INLINE vf as_float(vi a) { return _mm256_castsi256_ps(a); }
// A word holds two bf16 values: the lower k in the low half.
TS_INLINE vf bf16_low(vi a) { return as_float(_mm256_slli_epi32(a, 16)); }
TS_INLINE vf bf16_high(vi a) { return as_float(_mm256_and_si256(a, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))); }

TS_INLINE vf load_bf16(const u16* p) {
  return as_float(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
TS_INLINE vf load_bf16_first(const u16* p, i64 n) {
  u16 lanes[8] = {};
  for (i64 i = 0; i < n; ++i) lanes[i] = p[i];
  return load_bf16(lanes);
}
TS_INLINE void store_bf16(u16* p, vf x) {
  const vi bits = _mm256_castps_si256(x);
  const vi odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const vi rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const vi quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const vi nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const vi high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  const __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half);
}
TS_INLINE void store_bf16_first(u16* p, vf x, i64 n) {
  u16 lanes[8];
  store_bf16(lanes, x);
  for (i64 i = 0; i < n; ++i) p[i] = lanes[i];
}

// Nibble J of each word, two's complement, as a float.
template <int J>
TS_INLINE vf nibble(vi a) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(a, 28 - 4 * J), 28));
}

// Byte J of each word, two's complement, as a float.
template <int J>
TS_INLINE vf signed_byte(vi a) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(a, 24 - 8 * J), 24));
}

// Byte J of each word as e4m3, divided by 2^120: so much too low stand its bits among a float's, subnormal or not.
template <int J>
TS_INLINE vf e4m3_low(vi a) {
  const vi bits = _mm256_srai_epi32(_mm256_slli_epi32(a, 24 - 8 * J), 4);
  return as_float(_mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0x87f00000u))));
}

// Nibble J of each word as e2m1: the permutation reads three bits of each index, the fourth is the sign.
template <int J>
TS_INLINE vf e2m1(vi a) {
  const vf table = _mm256_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6);
  const vf magnitude = _mm256_permutevar8x32_ps(table, _mm256_srli_epi32(a, 4 * J));
  return _mm256_or_ps(magnitude, _mm256_and_ps(as_float(_mm256_slli_epi32(a, 28 - 4 * J)), set1(-0.0f)));
}

// to[j * to_stride + i] = from[i * from_stride + j] for 8 x 8.
TS_INLINE void transpose_block(const float* from, i64 from_stride, float* to, i64 to_stride) {
#pragma GCC unroll 2
  for (int q = 0; q < 2; ++q) {
    vf r[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const float* p = from + i * from_stride + 4 * q;
      r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * from_stride), 1);
    }
    const __m256d t0 = _mm256_castps_pd(_mm256_unpacklo_ps(r[0], r[1]));
    const __m256d t1 = _mm256_castps_pd(_mm256_unpackhi_ps(r[0], r[1]));
    const __m256d t2 = _mm256_castps_pd(_mm256_unpacklo_ps(r[2], r[3]));
    const __m256d t3 = _mm256_castps_pd(_mm256_unpackhi_ps(r[2], r[3]));
    float* d = to + 4 * q * to_stride;
    store(d, _mm256_castpd_ps(_mm256_unpacklo_pd(t0, t2)));
    store(d + to_stride, _mm256_castpd_ps(_mm256_unpackhi_pd(t0, t2)));
    store(d + 2 * to_stride, _mm256_castpd_ps(_mm256_unpacklo_pd(t1, t3)));
    store(d + 3 * to_stride, _mm256_castpd_ps(_mm256_unpackhi_pd(t1, t3)));
  }
}

}  // namespace ts::TS_ISA
