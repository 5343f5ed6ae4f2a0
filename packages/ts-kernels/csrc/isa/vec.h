// The vector type of the instruction set that this translation unit is compiled for, and what is built on it alone.
// TS_ISA names the namespace; each file in ops/ is compiled once per instruction set.
#pragma once

#if defined(TS_ISA_AVX512) || defined(TS_ISA_AVX512_BF16) || defined(TS_ISA_AMX)
#define TS_WIDE_VECTORS 1
#include "isa/vec_avx512.h"
#elif defined(TS_ISA_AVX2)
#include "isa/vec_avx2.h"
#else
#include "isa/vec_portable.h"
#endif

namespace ts::TS_ISA {

TS_INLINE vf load_as_float(const void* p, DType t, i64 i, i64 n) {
  if (t == DType::f32) {
    const float* f = static_cast<const float*>(p) + i;
    return n >= W ? load(f) : load_first(f, n);
  }
  const u16* h = static_cast<const u16*>(p) + i;
  return n >= W ? load_bf16(h) : load_bf16_first(h, n);
}

TS_INLINE void store_as(void* p, DType t, i64 i, vf x, i64 n) {
  if (t == DType::f32) {
    float* f = static_cast<float*>(p) + i;
    return n >= W ? store(f, x) : store_first(f, x, n);
  }
  u16* h = static_cast<u16*>(p) + i;
  return n >= W ? store_bf16(h, x) : store_bf16_first(h, x, n);
}

// 2^x, 0 at minus infinity. Minimax polynomial of degree 6 on [-0.5, 0.5], relative error 2e-9 before rounding.
TS_INLINE vf exp2(vf x) {
  const vf held = max(set1(-1e30f), x);
  const vf n = round(held);
  const vf r = held - n;
  vf p = set1(0x1.41d334p-13f);
  p = fma(p, r, set1(0x1.5f456ap-10f));
  p = fma(p, r, set1(0x1.3b2dbcp-7f));
  p = fma(p, r, set1(0x1.c6aed4p-5f));
  p = fma(p, r, set1(0x1.ebfbdap-3f));
  p = fma(p, r, set1(0x1.62e430p-1f));
  p = fma(p, r, set1(1.0f));
  return scale2(p, n);
}

constexpr float kLog2e = 1.44269504088896341f;

// e^x; log2(e) in two parts, so that a large |x| costs no accuracy. What is too large for a float is infinite, for AVX2
// and portable vectors from 88.4 on. Of two numbers min and max give the second where one is NaN, so NaN stays.
TS_INLINE vf exp(vf x) {
  const vf clamped = max(set1(-104.0f), min(set1(89.5f), x));
  const vf n = round(clamped * set1(kLog2e));
  vf r = fma(clamped, set1(kLog2e), zero() - n);
  r = fma(clamped, set1(1.925963033500111e-8f), r);
  vf p = set1(0x1.41d334p-13f);
  p = fma(p, r, set1(0x1.5f456ap-10f));
  p = fma(p, r, set1(0x1.3b2dbcp-7f));
  p = fma(p, r, set1(0x1.c6aed4p-5f));
  p = fma(p, r, set1(0x1.ebfbdap-3f));
  p = fma(p, r, set1(0x1.62e430p-1f));
  p = fma(p, r, set1(1.0f));
  return scale2(p, n);
}

TS_INLINE vf sigmoid(vf x) { return set1(1.0f) / (set1(1.0f) + exp(zero() - x)); }
// As torch's: -0 below -89, and NaN, which is infinity times 0, at minus infinity.
TS_INLINE vf silu(vf x) { return x / (set1(1.0f) + exp(zero() - x)); }

}  // namespace ts::TS_ISA
