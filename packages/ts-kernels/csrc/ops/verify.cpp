// Which drafted tokens stand, and the token after them: rejection sampling (arXiv 2211.17192, algorithm 1), and its
// equal for greedy drafts, which compares each with what would have been drawn without it.
#include "ops/sampling.h"

namespace ts::TS_ISA {
namespace {

constexpr u64 kAcceptance = 1, kReplacement = 2;

struct Row {
  const float* x;  // [places][vocab]
  const i32* drafts;
  Filter filter;
  i64 seed, position;
};

TS_INLINE Row row_of(const VerifyArgs& a, i64 row) {
  return {a.logits + row * a.places * a.vocab, a.drafts + row * (a.places - 1), filter_of(a.draw, row),
          a.draw.seeds[row], a.draw.positions[row]};
}

// What is kept at a place; greedy rows keep the highest alone.
Kept keep_at(const Row& r, i64 vocab, const float* x, float peak) {
  if (r.filter.temperature > 0) return keep(x, vocab, peak, r.filter);
  Candidate* one = scratch_of<Candidate>(Slot::candidates, 1);
  *one = {1.0f, first_of(x, DType::f32, vocab, peak)};
  return {one, 1, 1.0};
}

double probability(const Kept& kept, i32 token) {
  i64 low = 0, high = kept.count;
  while (low < high) {
    const i64 middle = (low + high) / 2;
    kept.tokens[middle].index < token ? low = middle + 1 : high = middle;
  }
  const bool there = low < kept.count && kept.tokens[low].index == token;
  return there ? static_cast<double>(kept.tokens[low].p) / kept.total : 0.0;
}

TS_INLINE double rest_of(const Kept& kept, const float* q, i64 i) {
  const double gap = static_cast<double>(kept.tokens[i].p) / kept.total - static_cast<double>(q[kept.tokens[i].index]);
  return gap > 0 ? gap : 0;
}

// Draws from max(p - q, 0), or from p where nothing of it is left (a draft that fell by the last bits of a division).
i32 redraw(const Kept& kept, const float* q, double share) {
  double total = 0;
  for (i64 i = 0; i < kept.count; ++i) total += rest_of(kept, q, i);
  if (!(total > 0)) return draw(kept, share);
  double sum = 0;
  i64 last = 0;
  for (i64 i = 0; i < kept.count; ++i) {
    const double rest = rest_of(kept, q, i);
    sum += rest;
    if (rest > 0) last = i;
    if (sum > share * total) return kept.tokens[i].index;
  }
  return kept.tokens[last].index;
}

void compare(const VerifyArgs& a, i64 row) {
  const Row r = row_of(a, row);
  i64 place = 0;
  for (;; ++place) {
    const i32 token = choose(r.x + place * a.vocab, a.vocab, r.filter, r.seed, r.position + place);
    a.bonus[row] = token;
    if (token < 0 || place == a.counts[row] || r.drafts[place] != token) break;
  }
  a.accepted[row] = static_cast<i32>(place);
}

void reject(const VerifyArgs& a, i64 row) {
  const Row r = row_of(a, row);
  const float* q = a.draft_probs + row * (a.places - 1) * a.vocab;
  for (i64 place = 0;; ++place, q += a.vocab) {
    const float* x = r.x + place * a.vocab;
    const i64 at = r.position + place;
    a.accepted[row] = static_cast<i32>(place);
    if (place == a.counts[row]) {
      a.bonus[row] = choose(x, a.vocab, r.filter, r.seed, at);
      return;
    }
    const float peak = maximum(x, DType::f32, a.vocab);
    if (peak == -kInfinity) {
      a.bonus[row] = -1;
      return;
    }
    const Kept kept = keep_at(r, a.vocab, x, peak);
    const i32 token = r.drafts[place];
    const bool stands = token >= 0 && uniform(stream(r.seed, kAcceptance), at) * static_cast<double>(q[token]) <
                                          probability(kept, token);
    if (!stands) {
      a.bonus[row] = redraw(kept, q, uniform(stream(r.seed, kReplacement), at));
      return;
    }
  }
}

}  // namespace

void verify(Pool& pool, const VerifyArgs& a) {
  parallel(pool, a.rows, a.rows * a.places * a.vocab * 8,
           [&](i64 row) { a.draft_probs ? reject(a, row) : compare(a, row); });
}

}  // namespace ts::TS_ISA
