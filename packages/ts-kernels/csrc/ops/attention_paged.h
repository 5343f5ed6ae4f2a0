// What decode and prefill over separate paged caches of keys and values share.
//
// Rows of a softmax are (query, head of the group) pairs that share one head of the cache: row r is query r / group.
// Scores are kept in units of log2: the query is scaled once, and 2^x replaces e^x.
#pragma once

#include "ops/attention.h"

namespace ts::TS_ISA {

constexpr i64 kFewQueries = 8;  // rows of at most so many queries are split over their keys

TS_INLINE i64 paged_first(const PagedArgs& a, i64 row) { return a.cu_q ? a.cu_q[row] : row * a.step; }
TS_INLINE i64 paged_queries(const PagedArgs& a, i64 row) { return a.cu_q ? a.cu_q[row + 1] - a.cu_q[row] : a.step; }
TS_INLINE i64 group_of(const PagedArgs& a) { return a.heads / a.kv_heads; }

// The oldest key that a query at this position sees.
TS_INLINE i64 oldest_key(const PagedArgs& a, i64 position) {
  return a.window > 0 ? max_of(0, position + 1 - a.window) : 0;
}

// What the queries are multiplied by. With a cap, scores come as twice the argument of tanh, in units of log2.
TS_INLINE float query_factor(const PagedArgs& a) {
  const float scale = a.scale * kLog2e * unit_of(a.cache_dtype);
  return a.soft_cap > 0 ? scale * 2 / a.soft_cap : scale;
}

// `width` numbers of q as fp32, scaled; zeros up to `padded`.
TS_INLINE void scale_query(const void* from, DType dtype, i64 width, i64 padded, float factor, float* to) {
  for (i64 j = 0; j < padded; j += W) {
    const vf x = j < width ? load_as_float(from, dtype, j, width - j) : zero();
    store(to + j, x * set1(factor));
  }
}

// Keys [begin, end) of a block, as one query sees them.
struct Seen {
  i64 begin, end;
};

TS_INLINE Seen seen_by(const PagedArgs& a, i64 position, i64 first, i64 count) {
  return {max_of(0, oldest_key(a, position) - first), min_of(count, position + 1 - first)};
}

// cap * tanh(x / 2), x = 2 * score / cap in units of log2, so that e^(2 score / cap) = 2^x.
TS_INLINE vf capped(vf x, float cap) {
  const vf power = exp2(min(set1(1e30f), x));
  return set1(cap * kLog2e) * (set1(1.0f) - set1(2.0f) / (set1(1.0f) + power));
}

// Lanes [begin, end) of x counted from lane i, kUnseen elsewhere.
TS_INLINE vf only_seen(vf x, i64 i, const Seen& seen) {
  if (seen.end - i < W) x = keep_first(x, max_of(0, seen.end - i), set1(kUnseen));
  if (seen.begin > i) x = keep_first(set1(kUnseen), min_of(W, seen.begin - i), x);
  return x;
}

// One row of scores becomes 2^(score - maximum) where seen(r), 0 elsewhere up to `columns`; see softmax_step.
TS_INLINE void softmax_row(float* row, i64 columns, const Seen& seen, float cap, const SoftmaxState& s, i64 r) {
  vf best = set1(s.maximum[r]);
  for (i64 i = seen.begin / W * W; i < seen.end; i += W) {
    vf x = load(row + i);
    if (cap > 0) x = capped(x, cap);
    x = only_seen(x, i, seen);
    store(row + i, x);
    best = max(best, x);
  }
  const float before = s.maximum[r], maximum = hmax(best);
  vf total = zero();
  i64 i = 0;
  for (; i < min_of(seen.begin / W * W, columns); i += W) store(row + i, zero());
  for (; i < seen.end; i += W) {
    const vf p = exp2(load(row + i) - set1(maximum));
    total = total + p;
    store(row + i, p);
  }
  for (; i < columns; i += W) store(row + i, zero());
  s.maximum[r] = maximum;
  float factor[W];
  store(factor, exp2(set1(before - maximum)));
  s.factor[r] = factor[0];
  s.total[r] = s.total[r] * s.factor[r] + hsum(total);
}

// Ends a softmax: takes the sink into the denominator and gives the output's factor, 0 where no key was seen.
TS_INLINE float finish_row(const PagedArgs& a, i64 token, i64 head, float maximum, float total) {
  float* lse = a.lse + token * a.heads + head;
  if (total == 0) {  // and not NaN
    *lse = -__builtin_inff();
    return 0;
  }
  const float sink = a.sinks ? a.sinks[head] * kLog2e : kLowest;
  const float top = sink > maximum ? sink : maximum;
  const float shrunk = __builtin_exp2f(maximum - top);
  const float own = sink == top ? 1.0f : __builtin_exp2f(sink - top);  // of infinity too
  const float whole = total * shrunk + (a.sinks ? own : 0.0f);
  *lse = (top + __builtin_log2f(whole)) / kLog2e;
  return a.v_scale * unit_of(a.cache_dtype) * shrunk / whole;
}

}  // namespace ts::TS_ISA
