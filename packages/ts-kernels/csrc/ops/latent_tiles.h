// The products and the softmax of absorbed attention, on keys that have become fp32.
//
// Scores lie [key][row of queries], and a vector holds rows of queries: keys are broadcast as they lie and need no
// transposing, and a softmax goes down the keys without a step across lanes. Every score and every output element is
// one chain of multiply-adds, in the order of columns and of keys, whatever the tile's shape.
#pragma once

#include "ops/attention.h"

namespace ts::TS_ISA {

constexpr i64 kLanes = 2 * W;  // rows of queries that a tile of scores takes, and columns that a tile of outputs takes
constexpr i64 kKeys = 96;      // keys at a time: at width 576 they are 222 KB, in half a level-2 cache

// Keys of a tile of scores and rows of a tile of outputs. Accumulators and operands fill 16 vector registers (AVX2,
// SSE2), or leave some of 32 free (AVX-512).
#if defined(TS_WIDE_VECTORS)
constexpr int kScoreKeys = 12, kMixRows = 12;
#elif defined(TS_ISA_AVX2)
constexpr int kScoreKeys = 6, kMixRows = 6;
#else
constexpr int kScoreKeys = 4, kMixRows = 4;
#endif
static_assert(kKeys % kScoreKeys == 0);

// fp32 keys lie in panels of columns, [panel][key][kLanes]: a tile of outputs reads them from front to back. Panels are
// a line more than their keys apart. At a multiple of 2 KB their lines shared sets of the level-1 cache: 70 GFLOP/s
// instead of 77 (Zen 3).
constexpr i64 kPanelSize = (kKeys + 1) * kLanes;

TS_INLINE i64 panels_size(i64 width) { return ceil_div(width, kLanes) * kPanelSize; }

// One key as fp32, to its place in every panel.
template <class T>
TS_INLINE void widen_columns(const char* key, i64 width, float* to) {
  const T* from = reinterpret_cast<const T*>(key);
  for (; width >= kLanes; width -= kLanes, from += kLanes, to += kPanelSize) widen_row(from, kLanes, to);
  if (width > 0) widen_row(from, width, to);
}

// Keys to come, which are fetched while others are multiplied, and the bytes of a number in them.
struct Coming {
  const char* const* keys;
  i64 size;

  TS_INLINE void fetch(const Coming& c, i64 k, i64 column) {
    __builtin_prefetch(c.keys[k] + column * c.size, 0, 2);
    if (kLanes * 4 > 64 && c.size == 4) __builtin_prefetch(c.keys[k] + column * c.size + 64, 0, 2);
  }
};

// scores[key][V vectors] of kScoreKeys keys; q [width][V vectors].
template <int V>
void score_tile(const float* q, const float* keys, i64 width, const Coming& coming, float* scores, i64 stride) {
  constexpr int K = kScoreKeys;
  vf sums[K][V];
#pragma GCC unroll 16
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sums[k][v] = zero();
  for (i64 column = 0; column < width; column += kLanes, keys += kPanelSize) {
#pragma GCC unroll 16
    for (int k = 0; k < K; ++k) Coming::fetch(coming, k, column);
    const i64 columns = min_of(kLanes, width - column);
#pragma GCC unroll 1
    for (i64 j = 0; j < columns; ++j, q += V * W) {
      vf x[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) x[v] = load(q + v * W);
#pragma GCC unroll 16
      for (int k = 0; k < K; ++k) {
        const vf key = set1(keys[k * kLanes + j]);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sums[k][v] = fma(key, x[v], sums[k][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(scores + k * stride + v * W, sums[k][v]);
}

// out[r] = out[r] * factor[r] (fresh: 0) + the sum of p[key][r] * key, for R rows and one panel.
template <int R>
void mix_tile(const float* p, i64 p_stride, const float* keys, i64 count, bool fresh, const float* factor, float* out,
              i64 out_stride) {
  vf sums[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) sums[r][v] = fresh ? zero() : load(out + r * out_stride + v * W) * set1(factor[r]);
  for (i64 k = 0; k < count; ++k, p += p_stride, keys += kLanes) {
    const vf low = load(keys), high = load(keys + W);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const vf weight = set1(p[r]);
      sums[r][0] = fma(weight, low, sums[r][0]);
      sums[r][1] = fma(weight, high, sums[r][1]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) store(out + r * out_stride + v * W, sums[r][v]);
}

// Scores of `count` keys become 2^(score - maximum); the state is brought up to date: factor is what the output so far
// has to be multiplied with. `lanes` rows, a whole number of vectors.
TS_INLINE void softmax_down(float* scores, i64 lanes, i64 count, const SoftmaxState& s) {
  for (i64 r = 0; r < lanes; r += W) {
    const vf before = load(s.maximum + r);
    vf best = before, total = zero();
    for (i64 k = 0; k < count; ++k) best = max(best, load(scores + k * lanes + r));
    for (i64 k = 0; k < count; ++k) {
      const vf p = exp2(load(scores + k * lanes + r) - best);
      store(scores + k * lanes + r, p);
      total = total + p;
    }
    const vf factor = exp2(before - best);
    store(s.maximum + r, best);
    store(s.factor + r, factor);
    store(s.total + r, fma(load(s.total + r), factor, total));
  }
}

}  // namespace ts::TS_ISA
