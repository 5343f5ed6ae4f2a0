// Greedy and random choice of the next token.
//
// Weights are fp32 numbers in (0, 1], so their bits order as they do: a histogram over the upper bits finds, in one
// pass, a limit below which no token can stay; the tokens near it alone are selected from or sorted.
#include "ops/sampling.h"

namespace ts::TS_ISA {
namespace {

constexpr int kDropped = 20;                         // bits of a weight that the histogram does not look at
constexpr i64 kBins = (0x3f800000 >> kDropped) + 1;  // up to a weight of one

TS_INLINE i64 bin_of(float p) {
  u32 bits;
  std::memcpy(&bits, &p, 4);
  return bits >> kDropped;
}

struct Histogram {
  i32 count[kBins];
  double mass[kBins];
};

void take(const float* p, i64 n, Histogram& h) {
  std::memset(&h, 0, sizeof h);
  for (i64 i = 0; i < n; ++i) {
    const i64 bin = bin_of(p[i]);
    ++h.count[bin];
    h.mass[bin] += static_cast<double>(p[i]);
  }
}

// Partitions c so that its best k (0 < k < n) come first, in no order (quickselect, median of three).
void select_best(Candidate* c, i64 n, i64 k) {
  for (i64 low = 0, high = n - 1; low < high;) {
    const Candidate x = c[low], y = c[(low + high) / 2], z = c[high];
    const Candidate pivot = before(x, y) ? (before(y, z)   ? y
                                            : before(x, z) ? z
                                                           : x)
                                         : (before(x, z)   ? x
                                            : before(y, z) ? z
                                                           : y);
    i64 i = low, j = high;
    while (i <= j) {
      while (before(c[i], pivot)) ++i;
      while (before(pivot, c[j])) --j;
      if (i <= j) {
        const Candidate t = c[i];
        c[i++] = c[j];
        c[j--] = t;
      }
    }
    if (k - 1 <= j) {
      high = j;
    } else if (k - 1 >= i) {
      low = i;
    } else {
      return;
    }
  }
}

// The length of the shortest best-first prefix whose mass makes `sum` reach `wanted`, that prefix moved to the front.
// Sorts only as many as it needs: 64, then four times more.
i64 nucleus(Candidate* c, i64 n, double sum, double wanted) {
  i64 sorted = 0;
  for (i64 size = min_of(64, n); sorted < n; size = min_of(size * 4, n)) {
    if (size < n) select_best(c + sorted, n - sorted, size - sorted);
    heap_sort(c + sorted, size - sorted, [](const Candidate& a, const Candidate& b) { return before(a, b); });
    for (; sorted < size; ++sorted) {
      sum += static_cast<double>(c[sorted].p);
      if (sum >= wanted) return sorted + 1;
    }
  }
  return n;
}

// p = exp((x - peak) / temperature); NaN counts as minus infinity. An infinite peak leaves its ties alone, at one, and
// so does a temperature whose inverse overflows.
void weigh(const float* x, i64 n, float peak, float temperature, float* p) {
  if (peak == kInfinity || 1.0f / temperature == kInfinity) {
    for (i64 i = 0; i < n; ++i) p[i] = x[i] == peak ? 1.0f : 0.0f;
    return;
  }
  const vf top = set1(peak), factor = set1(1.0f / temperature);
  for (i64 i = 0; i < n; i += W) {
    const vf v = max((load_as_float(x, DType::f32, i, n - i) - top) * factor, set1(-kInfinity));
    store_as(p, DType::f32, i, min(exp(v), set1(1.0f)), n - i);
  }
}

// The lowest bin that the best k tokens reach into, or the best with a mass of `wanted`; and the mass of those above
// it.
struct Reach {
  i64 bin;
  double above;
};

Reach reach_of(const Histogram& h, i64 k, double wanted) {
  i64 count = h.count[kBins - 1];
  Reach r{kBins - 1, 0};
  while (r.bin > 0 && count < k && r.above + h.mass[r.bin] < wanted) {
    r.above += h.mass[r.bin];
    count += h.count[--r.bin];
  }
  return r;
}

// The tokens with a weight in bins from `lowest` up, in index order; those of weight zero never.
i64 gather_bins(const float* p, i64 n, i64 lowest, Candidate* c) {
  const u32 bits = static_cast<u32>(lowest) << kDropped;
  float limit;
  std::memcpy(&limit, &bits, 4);
  i64 count = 0;
  for (i64 i = 0; i < n; ++i) {
    c[count] = {p[i], static_cast<i32>(i)};
    count += p[i] >= limit && p[i] > 0;
  }
  return count;
}

// Applies top-k, then top-p, to the weights; gives the tokens that stay, in index order.
i64 best_few(const float* p, i64 vocab, const Filter& f, const Histogram& h, Candidate* c) {
  i64 count = gather_bins(p, vocab, reach_of(h, f.top_k, __builtin_huge_val()).bin, c);
  if (f.top_k < count) select_best(c, count, f.top_k), count = f.top_k;
  double total = 0;
  for (i64 i = 0; i < count; ++i) total += static_cast<double>(c[i].p);
  if (f.top_p < 1) count = nucleus(c, count, 0, total * static_cast<double>(f.top_p));
  heap_sort(c, count, [](const Candidate& l, const Candidate& r) { return l.index < r.index; });
  return count;
}

// Applies top-p alone: tokens of bins above the one that the mass ends in stay, and only those within it are ordered.
// `c` has room for all tokens twice.
i64 best_mass(const float* p, i64 vocab, const Filter& f, const Histogram& h, Candidate* c) {
  double total = 0;
  for (i64 i = 0; i < kBins; ++i) total += h.mass[i];
  const double wanted = total * static_cast<double>(f.top_p);
  const Reach reach = reach_of(h, vocab + 1, wanted);
  const i64 count = gather_bins(p, vocab, reach.bin, c);
  Candidate* last = c + count;
  i64 within = 0;
  for (i64 i = 0; i < count; ++i) {
    last[within] = c[i];
    within += bin_of(c[i].p) == reach.bin;
  }
  const Candidate worst = last[nucleus(last, within, reach.above, wanted) - 1];
  i64 kept = 0;
  for (i64 i = 0; i < count; ++i) {
    const Candidate candidate = c[i];
    c[kept] = candidate;
    kept += !before(worst, candidate);
  }
  return kept;
}

}  // namespace

// NaN aside: `max` gives its second operand where the first is NaN, and a comparison with NaN is false.
float maximum(const void* x, DType dtype, i64 n) {
  vf best[4] = {set1(-kInfinity), set1(-kInfinity), set1(-kInfinity), set1(-kInfinity)};
  i64 i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    for (int j = 0; j < 4; ++j) best[j] = max(load_as_float(x, dtype, i + j * W, W), best[j]);
  float top = hmax(max(max(best[0], best[1]), max(best[2], best[3])));
  for (; i < n; ++i) {
    const float v = load_scalar(x, dtype, i);
    top = v > top ? v : top;
  }
  return top;
}

i32 first_of(const void* x, DType dtype, i64 n, float peak) {
  for (i64 i = 0; i < n; ++i)
    if (load_scalar(x, dtype, i) == peak) return static_cast<i32>(i);
  return -1;
}

Kept keep(const float* x, i64 vocab, float peak, const Filter& f) {
  float* p = scratch_of<float>(Slot::probabilities, vocab);
  Candidate* c = scratch_of<Candidate>(Slot::candidates, 2 * vocab + 1);
  weigh(x, vocab, peak, f.temperature, p);
  const bool few = f.top_k > 0 && f.top_k < vocab;
  i64 count = 0;
  if (few || f.top_p < 1) {
    Histogram h;
    take(p, vocab, h);
    count = few ? best_few(p, vocab, f, h, c) : best_mass(p, vocab, f, h, c);
  } else {
    count = gather_bins(p, vocab, 0, c);
  }
  const float least = f.min_p < 1 ? f.min_p : 1;  // weights are relative to the highest, which therefore stays
  double total = 0;
  i64 kept = 0;
  for (i64 i = 0; i < count; ++i) {
    if (!(c[i].p >= least)) continue;
    c[kept++] = c[i];
    total += static_cast<double>(c[i].p);
  }
  return {c, kept, total};
}

i32 draw(const Kept& kept, double share) {
  const double target = share * kept.total;
  double sum = 0;
  for (i64 i = 0; i < kept.count; ++i) {
    sum += static_cast<double>(kept.tokens[i].p);
    if (sum > target) return kept.tokens[i].index;
  }
  return kept.tokens[kept.count - 1].index;
}

i32 choose(const float* x, i64 vocab, const Filter& f, i64 seed, i64 position) {
  const float peak = maximum(x, DType::f32, vocab);
  if (peak == -kInfinity) return -1;  // nothing to choose
  if (!(f.temperature > 0)) return first_of(x, DType::f32, vocab, peak);
  return draw(keep(x, vocab, peak, f), uniform(static_cast<u64>(seed), position));
}

void sample(Pool& pool, const SampleArgs& a) {
  parallel(pool, a.rows, a.rows * a.vocab * 8, [&](i64 row) {
    const float* x = a.logits + row * a.stride;
    a.out[row] = choose(x, a.vocab, filter_of(a.draw, row), a.draw.seeds[row], a.draw.positions[row]);
  });
}

void argmax(Pool& pool, const ArgmaxArgs& a) {
  parallel(pool, a.rows, a.rows * a.vocab, [&](i64 row) {
    const void* x = at(a.logits, a.dtype, row * a.stride);
    const float peak = maximum(x, a.dtype, a.vocab);
    a.out[row] = peak == -kInfinity ? -1 : first_of(x, a.dtype, a.vocab, peak);
  });
}

}  // namespace ts::TS_ISA
