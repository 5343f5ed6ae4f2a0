// Partial attention over disjoint keys, merged: each part weighs its share of the softmax's denominator
// (arXiv 2501.01005, section 2.2).
#include <cmath>

#include "isa/f16.h"
#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

TS_INLINE const void* element(const void* p, PartType type, i64 i) {
  return static_cast<const char*>(p) + i * (type == PartType::f32 ? 4 : 2);
}

TS_INLINE vf load_part(const void* p, PartType type, i64 i, i64 n) {
  if (type == PartType::f16) return load_f16_first(static_cast<const u16*>(p) + i, n);
  return load_as_float(p, type == PartType::f32 ? DType::f32 : DType::bf16, i, n);
}

TS_INLINE void store_part(void* p, PartType type, i64 i, vf x, i64 n) {
  if (type == PartType::f16) return store_f16_first(static_cast<u16*>(p) + i, x, n);
  store_as(p, type == PartType::f32 ? DType::f32 : DType::bf16, i, x, n);
}

// Each part's share; gives the log-sum-exp of all. Parts without keys have the share 0, NaN makes NaN of every share.
float share_out(const MergeArgs& a, const float* lses, float* shares) {
  float largest = -HUGE_VALF;
  for (i64 p = 0; p < a.parts; ++p) {
    const float lse = lses[p * a.lse_part_stride];
    largest = lse <= largest ? largest : lse;  // a NaN comes through
    if (largest != largest) break;
  }
  const float base = std::fabs(largest) == HUGE_VALF ? 0.0f : largest;
  float total = 0;
  for (i64 p = 0; p < a.parts; ++p) total += shares[p] = std::exp(lses[p * a.lse_part_stride] - base);
  const float whole = total == 0 ? 0.0f : 1.0f / total;
  for (i64 p = 0; p < a.parts; ++p) shares[p] *= whole;
  return base + std::log(total);
}

void merge_token(const MergeArgs& a, i64 token) {
  float* shares = scratch_of<float>(Slot::merged, a.parts);
  for (i64 head = 0; head < a.heads; ++head) {
    a.lse[token * a.heads + head] = share_out(a, a.lses + token * a.lse_token_stride + head, shares);
    const i64 from = token * a.token_stride + head * a.v;
    void* to = const_cast<void*>(element(a.out, a.type, (token * a.heads + head) * a.v));
    for (i64 i = 0; i < a.v; i += W) {
      vf sum = zero();
      for (i64 p = 0; p < a.parts; ++p) {
        if (shares[p] == 0) continue;  // whatever it holds
        const void* part = element(a.outs, a.type, p * a.part_stride + from);
        sum = fma(set1(shares[p]), load_part(part, a.type, i, a.v - i), sum);
      }
      store_part(to, a.type, i, sum, a.v - i);
    }
  }
}

}  // namespace

void merge(Pool& pool, const MergeArgs& a) {
  parallel(pool, a.tokens, a.parts * a.tokens * a.heads * (a.v + 16), [&](i64 token) { merge_token(a, token); });
}

}  // namespace ts::TS_ISA
