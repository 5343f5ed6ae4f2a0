// Vectors of 16 floats: AVX-512 F, BW, DQ, VL.
#pragma once

#include <immintrin.h>

#include "common/types.h"

namespace ts::TS_ISA {

using vf = __m512;
using vi = __m512i;
constexpr int W = 16;

TS_INLINE __mmask16 first(i64 n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : (1u << n) - 1); }

TS_INLINE vf zero() { return _mm512_setzero_ps(); }
TS_INLINE vf set1(float x) { return _mm512_set1_ps(x); }
TS_INLINE vf load(const float* p) { return _mm512_loadu_ps(p); }
TS_INLINE vf load_first(const float* p, i64 n) { return _mm512_maskz_loadu_ps(first(n), p); }
TS_INLINE void store(float* p, vf x) { _mm512_storeu_ps(p, x); }
TS_INLINE void store_first(float* p, vf x, i64 n) { _mm512_mask_storeu_ps(p, first(n), x); }

TS_INLINE vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
TS_INLINE vf max(vf a, vf b) { return _mm512_max_ps(a, b); }
TS_INLINE vf min(vf a, vf b) { return _mm512_min_ps(a, b); }
TS_INLINE vf round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// x * 2^n for integral n, with underflow to 0.
TS_INLINE vf scale2(vf x, vf n) { return _mm512_scalef_ps(x, n); }
TS_INLINE float hsum(vf a) { return _mm512_reduce_add_ps(a); }
TS_INLINE float hmax(vf a) { return _mm512_reduce_max_ps(a); }
// Lane i is the sum of a[i]'s lanes. 45 operations for 16 sums; hsum by hsum they would be some 160.
TS_INLINE vf quarters(vf a, vf b, vf c, vf d) {  // four partial sums of each, 128 bits apiece
  const vf x = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  const vf y = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
}
TS_INLINE vf sums_of(const vf (&a)[16]) {
  const vf q0 = quarters(a[0], a[4], a[8], a[12]), q1 = quarters(a[1], a[5], a[9], a[13]);
  const vf q2 = quarters(a[2], a[6], a[10], a[14]), q3 = quarters(a[3], a[7], a[11], a[15]);
  const __m512d s01 = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(q0, q1), _mm512_unpackhi_ps(q0, q1)));
  const __m512d s23 = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(q2, q3), _mm512_unpackhi_ps(q2, q3)));
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(s01, s23)), _mm512_castpd_ps(_mm512_unpackhi_pd(s01, s23)));
}
// The first n lanes of a, the others `other`.
TS_INLINE vf keep_first(vf a, i64 n, vf other) { return _mm512_mask_blend_ps(first(n), other, a); }

TS_INLINE vi load_words(const u32* p) { return _mm512_loadu_si512(p); }
TS_INLINE void store_words(u32* p, vi x) { _mm512_storeu_si512(p, x); }
TS_INLINE vf as_float(vi a) { return _mm512_castsi512_ps(a); }
// A word holds two bf16 values: the lower k in the low half.
TS_INLINE vi bf16_pair(vf low, vf high) {  // cuts the lower bits off
  return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(_mm512_castps_si512(low), 16),
                                 _mm512_castps_si512(high));
}
TS_INLINE vf bf16_low(vi a) { return as_float(_mm512_slli_epi32(a, 16)); }
TS_INLINE vf bf16_high(vi a) { return as_float(_mm512_and_si512(a, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))); }

#if defined(TS_ISA_AVX512_BF16)
#define TS_HAS_PAIRS 1
// a plus the products of bf16 numbers, two a lane.
TS_INLINE vf dot_pairs(vi x, vi y, vf a) { return _mm512_dpbf16_ps(a, (__m512bh)x, (__m512bh)y); }
TS_INLINE vi load_pairs(const u16* p) { return _mm512_loadu_si512(p); }
TS_INLINE vi load_pairs_first(const u16* p, i64 n) {  // n numbers, fewer than 32
  return _mm512_maskz_loadu_epi16((1u << n) - 1, p);
}
#endif

TS_INLINE vf widen(__m256i h) { return as_float(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
TS_INLINE vf load_bf16(const u16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
TS_INLINE vf load_bf16_first(const u16* p, i64 n) { return widen(_mm256_maskz_loadu_epi16(first(n), p)); }
TS_INLINE __m256i narrow(vf x) {
  const vi bits = _mm512_castps_si512(x);
  const vi odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  vi rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
TS_INLINE void store_bf16(u16* p, vf x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x)); }
TS_INLINE void store_bf16_first(u16* p, vf x, i64 n) { _mm256_mask_storeu_epi16(p, first(n), narrow(x)); }

// Nibble J of each word, two's complement, as a float. One shift and one permute: vpermps reads four bits of each
// index, so that the nibble needs no masking, and its table holds the 16 values (shift + and + convert would be three).
template <int J>
TS_INLINE vf nibble(vi a) {
  const vf table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  return _mm512_permutexvar_ps(J == 0 ? a : _mm512_srli_epi32(a, 4 * J), table);
}

// Byte J of each word, two's complement, as a float.
template <int J>
TS_INLINE vf signed_byte(vi a) {
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(a, 24 - 8 * J), 24));
}

// Byte J of each word as e4m3, divided by 2^120: so much too low stand its bits among a float's, subnormal or not.
template <int J>
TS_INLINE vf e4m3_low(vi a) {
  const vi bits = _mm512_srai_epi32(_mm512_slli_epi32(a, 24 - 8 * J), 4);
  return as_float(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0x87f00000u))));
}

// Nibble J of each word as e2m1.
template <int J>
TS_INLINE vf e2m1(vi a) {
  const vf table = _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);
  return _mm512_permutexvar_ps(J == 0 ? a : _mm512_srli_epi32(a, 4 * J), table);
}

// to[j * to_stride + i] = from[i * from_stride + j] for 16 x 16.
TS_INLINE void transpose_block(const float* from, i64 from_stride, float* to, i64 to_stride) {
  vf a[16], b[16];
  // Rows i, i+4, i+8, i+12 by quarters: what would be two rounds of lane shuffles happens in the loads.
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const float* p = from + i * from_stride + 4 * q;
      vf r = _mm512_castps128_ps512(_mm_loadu_ps(p));
      r = _mm512_insertf32x4(r, _mm_loadu_ps(p + 4 * from_stride), 1);
      r = _mm512_insertf32x4(r, _mm_loadu_ps(p + 8 * from_stride), 2);
      a[4 * q + i] = _mm512_insertf32x4(r, _mm_loadu_ps(p + 12 * from_stride), 3);
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    const vf* r = a + 4 * q;
    const __m512d t0 = _mm512_castps_pd(_mm512_unpacklo_ps(r[0], r[1]));
    const __m512d t1 = _mm512_castps_pd(_mm512_unpackhi_ps(r[0], r[1]));
    const __m512d t2 = _mm512_castps_pd(_mm512_unpacklo_ps(r[2], r[3]));
    const __m512d t3 = _mm512_castps_pd(_mm512_unpackhi_ps(r[2], r[3]));
    b[4 * q + 0] = _mm512_castpd_ps(_mm512_unpacklo_pd(t0, t2));
    b[4 * q + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(t0, t2));
    b[4 * q + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(t1, t3));
    b[4 * q + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(t1, t3));
  }
#pragma GCC unroll 16
  for (int j = 0; j < 16; ++j) store(to + j * to_stride, b[j]);
}

}  // namespace ts::TS_ISA
