// Routing: sigmoid scores with group-limited top-k of the biased scores (DeepSeek-V3), and softmax.
#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

constexpr float kNever = -__builtin_huge_valf();

// What is taken: no number is above NaN, and it is above none.
constexpr float kTaken = __builtin_nanf("");

// Index of the largest that is not NaN, lowest on ties, -1 where there is none; the caller then takes it. top_k passes
// over a few hundred floats cost less than a sort, and no allocation.
TS_INLINE i64 argmax(const float* x, i64 n) {
  i64 best = 0;
  while (best < n && x[best] != x[best]) ++best;
  for (i64 i = best + 1; i < n; ++i)
    if (x[i] > x[best]) best = i;
  return best < n ? best : -1;
}

// The best of what is left; where that is NaN alone, the lowest that is not among ids[:count].
TS_INLINE i64 take(float* left, i64 n, const i32* ids, i64 count) {
  i64 best = argmax(left, n);
  for (i64 i = 0; best < 0; ++i) {
    bool taken = false;
    for (i64 j = 0; j < count; ++j) taken |= ids[j] == i;
    if (!taken) best = i;
  }
  left[best] = kTaken;
  return best;
}

// A logit of NaN is never chosen, but spoils its row as it does in the definition.
TS_INLINE float or_nan(float all, float factor) { return all == all ? factor : all; }

void keep_best_groups(float* biased, const RouteArgs& a, float* group_score) {
  const i64 size = a.experts / a.n_group;
  for (i64 g = 0; g < a.n_group; ++g) {
    float top = kNever, second = kNever;
    for (i64 i = g * size; i < (g + 1) * size; ++i) {
      if (biased[i] > top) {
        second = top;
        top = biased[i];
      } else if (biased[i] > second) {
        second = biased[i];
      }
    }
    group_score[g] = size > 1 ? top + second : top;
  }
  float* kept = group_score + a.n_group;
  for (i64 g = 0; g < a.n_group; ++g) kept[g] = 0;
  for (i64 count = 0; count < a.topk_group; ++count) {
    i64 best = argmax(group_score, a.n_group);
    if (best < 0)  // NaN alone
      for (best = 0; kept[best] != 0;) ++best;
    kept[best] = 1;
    group_score[best] = kTaken;
  }
  for (i64 g = 0; g < a.n_group; ++g)
    if (kept[g] == 0)
      for (i64 i = g * size; i < (g + 1) * size; ++i) biased[i] = kNever;
}

void route_row(const RouteArgs& a, i64 row) {
  const i64 padded = round_up(a.experts, W);
  float* scores = scratch_of<float>(Slot::scores, 2 * padded + 2 * a.n_group);
  float* biased = scores + padded;
  vf all = zero();
  for (i64 i = 0; i < a.experts; i += W) {
    const i64 n = a.experts - i;
    const vf s = sigmoid(load_as_float(a.logits + row * a.stride, DType::f32, i, n));
    all = all + s;
    store(scores + i, s);
    store(biased + i, s + load_as_float(a.bias, DType::f32, i, n));
  }
  if (a.n_group > a.topk_group) keep_best_groups(biased, a, biased + padded);
  float* weights = a.weights + row * a.top_k;
  float total = 0;
  for (i64 j = 0; j < a.top_k; ++j) {
    const i64 best = take(biased, a.experts, a.ids + row * a.top_k, j);
    a.ids[row * a.top_k + j] = static_cast<i32>(best);
    weights[j] = scores[best];
    total += scores[best];
  }
  const float factor = or_nan(hsum(all), a.normalize ? a.scale / (total + 1e-20f) : a.scale);
  for (i64 j = 0; j < a.top_k; ++j) weights[j] *= factor;
}

// The choice is by the logits, so that two of them which one exponential rounds to the same number are no tie. The sum
// is of scalars in index order: a row is some hundred experts.
void route_softmax_row(const RouteSoftmaxArgs& a, i64 row) {
  const i64 padded = round_up(a.experts, W);
  float* left = scratch_of<float>(Slot::scores, 2 * padded);
  float* powers = left + padded;
  const float* logits = a.logits + row * a.stride;
  const vf largest = set1(logits[max_of(0, argmax(logits, a.experts))]);
  for (i64 i = 0; i < a.experts; i += W) {
    const vf x = load_as_float(logits, DType::f32, i, a.experts - i);
    store(left + i, x);
    store(powers + i, exp(x - largest));
  }
  float* weights = a.weights + row * a.top_k;
  float total = 0, chosen = 0;
  for (i64 i = 0; i < a.experts; ++i) total += powers[i];
  for (i64 j = 0; j < a.top_k; ++j) {
    const i64 best = take(left, a.experts, a.ids + row * a.top_k, j);
    a.ids[row * a.top_k + j] = static_cast<i32>(best);
    weights[j] = powers[best];
    chosen += powers[best];
  }
  const float factor = or_nan(total, a.scale / (a.normalize ? chosen : total));
  for (i64 j = 0; j < a.top_k; ++j) weights[j] *= factor;
}

}  // namespace

void route_softmax(Pool& pool, const RouteSoftmaxArgs& a) {
  constexpr i64 kRows = 32;
  parallel(pool, ceil_div(a.rows, kRows), a.rows * a.experts * (a.top_k + 2) * 8, [&](i64 task) {
    for (i64 row = task * kRows; row < min_of((task + 1) * kRows, a.rows); ++row) route_softmax_row(a, row);
  });
}

void route(Pool& pool, const RouteArgs& a) {
  constexpr i64 kRows = 32;
  parallel(pool, ceil_div(a.rows, kRows), a.rows * a.experts * (a.top_k + 2) * 8, [&](i64 task) {
    for (i64 row = task * kRows; row < min_of((task + 1) * kRows, a.rows); ++row) route_row(a, row);
  });
}

}  // namespace ts::TS_ISA
