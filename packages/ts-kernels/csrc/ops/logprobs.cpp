// Log probabilities: of a chosen token with its rank, and of the best n.
#include <cmath>

#include "ops/sampling.h"

namespace ts::TS_ISA {
namespace {

TS_INLINE float usable(float x) { return x == x ? x : -kInfinity; }

// log(sum(exp(x - peak))). Blocks of 4096 in fp32, their sums in fp64.
double log_sum(const float* x, i64 n, float peak) {
  if (peak == kInfinity) {
    i64 ties = 0;
    for (i64 i = 0; i < n; ++i) ties += x[i] == peak;
    return std::log(static_cast<double>(ties));
  }
  constexpr i64 kBlock = 4096;
  double total = 0;
  for (i64 first = 0; first < n; first += kBlock) {
    const i64 end = min_of(first + kBlock, n);
    vf sum = zero();
    for (i64 i = first; i < end; i += W) {
      const vf v = max(load_as_float(x, DType::f32, i, end - i) - set1(peak), set1(-kInfinity));
      sum = sum + keep_first(exp(v), end - i, zero());
    }
    total += static_cast<double>(hsum(sum));
  }
  return std::log(total);
}

TS_INLINE float log_probability(float x, float peak, double log_total) {
  if (!(x > -kInfinity)) return -kInfinity;
  return static_cast<float>((x == peak ? 0.0 : static_cast<double>(x) - static_cast<double>(peak)) - log_total);
}

i32 rank_of(const float* x, i64 n, i64 token) {
  const float own = usable(x[token]);
  i64 better = 0;
  for (i64 i = 0; i < token; ++i) better += usable(x[i]) >= own;
  for (i64 i = token + 1; i < n; ++i) better += usable(x[i]) > own;
  return static_cast<i32>(better + 1);
}

// Moves the worst of c[0..n) to the root of the heap again.
void sift(Candidate* c, i64 n) {
  for (i64 root = 0, child; (child = 2 * root + 1) < n; root = child) {
    if (child + 1 < n && before(c[child], c[child + 1])) ++child;
    if (!before(c[root], c[child])) return;
    const Candidate t = c[root];
    c[root] = c[child];
    c[child] = t;
  }
}

// The best n (at least 1) of x in c, best first. A heap with the worst of them at its root; a vector of x that does
// not exceed it is passed over.
void best_of(const float* x, i64 vocab, i64 n, Candidate* c) {
  const auto order = [](const Candidate& a, const Candidate& b) { return before(a, b); };
  for (i64 i = 0; i < n; ++i) c[i] = {usable(x[i]), static_cast<i32>(i)};
  heap_sort(c, n, [](const Candidate& a, const Candidate& b) { return before(b, a); });  // worst first: a heap
  for (i64 i = n; i < vocab;) {
    const i64 count = min_of(4 * W, vocab - i);
    if (count == 4 * W) {
      vf top = set1(-kInfinity);
      for (int j = 0; j < 4; ++j) top = max(load(x + i + j * W), top);
      if (!(hmax(top) > c[0].p)) {
        i += count;
        continue;
      }
    }
    for (const i64 end = i + count; i < end; ++i) {
      if (!(x[i] > c[0].p)) continue;
      c[0] = {x[i], static_cast<i32>(i)};
      sift(c, n);
    }
  }
  heap_sort(c, n, order);
}

void report(const LogprobsArgs& a, i64 row) {
  const float* x = a.logits + row * a.stride;
  const i32 token = a.tokens[row];
  const float peak = maximum(x, DType::f32, a.vocab);
  const double log_total = peak == -kInfinity ? 0.0 : log_sum(x, a.vocab, peak);
  a.chosen[row] = token < 0 ? -kInfinity : log_probability(x[token], peak, log_total);
  a.ranks[row] = token < 0 ? 0 : rank_of(x, a.vocab, token);
  if (a.n == 0) return;
  Candidate* c = scratch_of<Candidate>(Slot::candidates, a.n);
  best_of(x, a.vocab, a.n, c);
  for (i64 i = 0; i < a.n; ++i) {
    a.top_ids[row * a.n + i] = c[i].index;
    a.top_values[row * a.n + i] = log_probability(c[i].p, peak, log_total);
  }
}

}  // namespace

void logprobs(Pool& pool, const LogprobsArgs& a) {
  parallel(pool, a.rows, a.rows * a.vocab * 8, [&](i64 row) { report(a, row); });
}

}  // namespace ts::TS_ISA
