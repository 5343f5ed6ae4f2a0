// What the draw and the verification of drafts share: random numbers, filters, and the draw itself.
#pragma once

#include "ops/ops.h"

namespace ts::TS_ISA {

constexpr float kInfinity = __builtin_huge_valf();

TS_INLINE u64 mix(u64 z) {  // splitmix64
  z += 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

TS_INLINE double uniform(u64 seed, i64 position) {
  return static_cast<double>(mix(mix(seed) + static_cast<u64>(position)) >> 11) * 0x1p-53;
}

// The seed of another sequence of numbers for the same request.
TS_INLINE u64 stream(i64 seed, u64 number) { return mix(static_cast<u64>(seed) + number * 0xD1B54A32D192ED03ull); }

struct Candidate {
  float p;
  i32 index;
};

// Whether a goes before b, best first.
TS_INLINE bool before(const Candidate& a, const Candidate& b) { return a.p > b.p || (a.p == b.p && a.index < b.index); }

template <class Less>
void heap_sort(Candidate* c, i64 n, const Less& less) {
  const auto sift = [&](i64 root, i64 end) {
    for (i64 child; (child = 2 * root + 1) < end; root = child) {
      if (child + 1 < end && less(c[child], c[child + 1])) ++child;
      if (!less(c[root], c[child])) return;
      const Candidate t = c[root];
      c[root] = c[child];
      c[child] = t;
    }
  };
  for (i64 root = n / 2; root-- > 0;) sift(root, n);
  for (i64 end = n; end-- > 1;) {
    const Candidate t = c[0];
    c[0] = c[end];
    c[end] = t;
    sift(0, end);
  }
}

// A row's filters.
struct Filter {
  float temperature;
  i32 top_k;
  float top_p, min_p;
};

TS_INLINE Filter filter_of(const DrawArgs& a, i64 row) {
  return {a.temperature[row], a.top_k[row], a.top_p[row], a.min_p ? a.min_p[row] : 0.0f};
}

// The tokens that the filters leave, in index order, and the sum of their weights. Valid until the thread's next call.
struct Kept {
  const Candidate* tokens;
  i64 count;
  double total;
};

// The highest of x, NaN aside; minus infinity where there is nothing.
float maximum(const void* x, DType dtype, i64 n);
// The first index of `peak`, which is in x.
i32 first_of(const void* x, DType dtype, i64 n, float peak);
// peak: the maximum, above minus infinity. filter.temperature > 0.
Kept keep(const float* x, i64 vocab, float peak, const Filter& filter);
// The token at `share`, in [0, 1), of the sum.
i32 draw(const Kept& kept, double share);
// The token that sampling chooses, -1 where there is nothing.
i32 choose(const float* x, i64 vocab, const Filter& filter, i64 seed, i64 position);

}  // namespace ts::TS_ISA
