// Rotary embedding in place: of adjacent pairs or of halves, by one position a token or by several.
#include "ops/rope.h"

#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

// The token's cosines, then sines, each pair's taken at its own axis' position.
const float* collect(const RopeArgs& a, i64 t, float* row) {
  const i64 half = a.rope_dim / 2;
  for (i64 i = 0; i < half; ++i) {
    const float* from = a.cos_sin + a.positions[a.pair_axis[i] * a.tokens + t] * a.table_dim + a.pair_column[i];
    row[i] = from[0], row[half + i] = from[a.table_dim / 2];
  }
  return row;
}

void rotate_token(const RopeArgs& a, i64 t) {
  const float* cos_sin = a.pair_axis ? collect(a, t, scratch_of<float>(Slot::row_state, a.rope_dim))
                                     : a.cos_sin + a.positions[t] * a.rope_dim;
  for (i64 h = 0; h < a.heads; ++h) {
    void* x = at(a.x, a.dtype, t * a.token_stride + h * a.head_stride + a.first);
    if (a.halves) {
      rotate_halves(x, a.dtype, a.rope_dim, cos_sin);
    } else {
      rotate_pairs(x, a.dtype, a.rope_dim, cos_sin, x, a.dtype);
    }
  }
}

}  // namespace

void rope(Pool& pool, const RopeArgs& a) {
  constexpr i64 kTokens = 32;
  parallel(pool, ceil_div(a.tokens, kTokens), a.tokens * a.heads * a.rope_dim * 32, [&](i64 task) {
    for (i64 t = task * kTokens; t < min_of((task + 1) * kTokens, a.tokens); ++t) rotate_token(a, t);
  });
}

}  // namespace ts::TS_ISA
