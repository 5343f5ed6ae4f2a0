// Vectors of 4 floats in the compilers' own vector extension: SSE2, NEON, or whatever the target has.
#pragma once

#include "common/types.h"

namespace ts::TS_ISA {

typedef float vf __attribute__((vector_size(16)));
typedef i32 vi __attribute__((vector_size(16)));
constexpr int W = 4;

TS_INLINE vf zero() { return vf{}; }
TS_INLINE vf set1(float x) { return vf{x, x, x, x}; }
TS_INLINE vf load(const float* p) {
  vf x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
TS_INLINE vf load_first(const float* p, i64 n) {
  vf x{};
  for (i64 i = 0; i < n && i < W; ++i) x[i] = p[i];
  return x;
}
TS_INLINE void store(float* p, vf x) { std::memcpy(p, &x, sizeof x); }
TS_INLINE void store_first(float* p, vf x, i64 n) {
  for (i64 i = 0; i < n && i < W; ++i) p[i] = x[i];
}

TS_INLINE vf as_float(vi a) { return reinterpret_cast<vf>(a); }
TS_INLINE vf select(vi mask, vf a, vf b) {
  return as_float((reinterpret_cast<vi>(a) & mask) | (reinterpret_cast<vi>(b) & ~mask));
}
TS_INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }
TS_INLINE vf max(vf a, vf b) { return select(a > b, a, b); }
TS_INLINE vf min(vf a, vf b) { return select(a < b, a, b); }
// Exact for |a| < 2^22; larger values, which are integers or saturate exp anyway, pass through.
TS_INLINE vf round(vf a) {
  const vf magic = set1(12582912.0f);
  const vf small = (a + magic) - magic;
  const vf limit = set1(4194304.0f);
  return select((a < limit) & (a > -limit), small, a);
}
// x * 2^n for integral n and x in [0.5, 2]; what would be subnormal becomes 0, from n = 128 on it is infinite.
TS_INLINE vf scale2(vf x, vf n) {
  const vf clamped = max(min(n, set1(128)), set1(-127));
  const vi bits = (__builtin_convertvector(clamped, vi) + 127) << 23;
  return x * as_float(bits);
}
TS_INLINE float hsum(vf a) { return (a[0] + a[2]) + (a[1] + a[3]); }
TS_INLINE float hmax(vf a) {
  const float x = a[0] > a[1] ? a[0] : a[1];
  const float y = a[2] > a[3] ? a[2] : a[3];
  return x > y ? x : y;
}
// Lane i is the sum of a[i]'s lanes.
TS_INLINE vf sums_of(const vf (&a)[4]) { return vf{hsum(a[0]), hsum(a[1]), hsum(a[2]), hsum(a[3])}; }
// The first n lanes of a, the others `other`.
TS_INLINE vf keep_first(vf a, i64 n, vf other) {
  for (i64 i = n < 0 ? 0 : n; i < W; ++i) a[i] = other[i];
  return a;
}

TS_INLINE vi load_words(const u32* p) {
  vi x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
TS_INLINE void store_words(u32* p, vi x) { std::memcpy(p, &x, sizeof x); }
// A word holds two bf16 values: the lower k in the low half.
TS_INLINE vi bf16_pair(vf low, vf high) {  // cuts the lower bits off
  return ((reinterpret_cast<vi>(low) >> 16) & 0xffff) | (reinterpret_cast<vi>(high) & static_cast<i32>(0xffff0000u));
}
TS_INLINE vf bf16_low(vi a) { return as_float(a << 16); }
TS_INLINE vf bf16_high(vi a) { return as_float(a & static_cast<i32>(0xffff0000u)); }

TS_INLINE vf load_bf16_first(const u16* p, i64 n) {
  vf x{};
  for (i64 i = 0; i < n && i < W; ++i) x[i] = bf16_to_float(p[i]);
  return x;
}
TS_INLINE vf load_bf16(const u16* p) { return load_bf16_first(p, W); }
TS_INLINE void store_bf16_first(u16* p, vf x, i64 n) {
  for (i64 i = 0; i < n && i < W; ++i) p[i] = float_to_bf16(x[i]);
}
TS_INLINE void store_bf16(u16* p, vf x) { store_bf16_first(p, x, W); }

// Nibble J of each word, two's complement, as a float.
template <int J>
TS_INLINE vf nibble(vi a) {
  return __builtin_convertvector((a << (28 - 4 * J)) >> 28, vf);
}

// Byte J of each word, two's complement, as a float.
template <int J>
TS_INLINE vf signed_byte(vi a) {
  return __builtin_convertvector((a << (24 - 8 * J)) >> 24, vf);
}

// Byte J of each word as e4m3, divided by 2^120: so much too low stand its bits among a float's, subnormal or not.
template <int J>
TS_INLINE vf e4m3_low(vi a) {
  return as_float(((a << (24 - 8 * J)) >> 4) & static_cast<i32>(0x87f00000u));
}

// Nibble J of each word as e2m1.
template <int J>
TS_INLINE vf e2m1(vi a) {
  constexpr float table[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
  vf x{};
  for (int i = 0; i < W; ++i) x[i] = table[(a[i] >> (4 * J)) & 15];
  return x;
}

// to[j * to_stride + i] = from[i * from_stride + j] for 4 x 4.
TS_INLINE void transpose_block(const float* from, i64 from_stride, float* to, i64 to_stride) {
  for (int i = 0; i < W; ++i)
    for (int j = 0; j < W; ++j) to[j * to_stride + i] = from[i * from_stride + j];
}

}  // namespace ts::TS_ISA
