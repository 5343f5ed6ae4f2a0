// What is done to logits before a draw: penalties, biases, masks.
#include "ops/sampling.h"

namespace ts::TS_ISA {
namespace {

constexpr u16 kInPrompt = 0x8000, kMost = 0x7fff;

void count_row(const CountArgs& a, i64 row) {
  if (a.slots[row] < 0) return;
  u16* counts = a.counts + a.slots[row] * a.vocab;
  const i32* tokens = a.tokens + row * a.token_stride;
  for (i64 i = 0; i < a.tokens_per_row; ++i) {
    if (tokens[i] < 0) continue;
    u16& count = counts[tokens[i]];
    if (a.prompt) {
      count |= kInPrompt;
    } else if ((count & kMost) != kMost) {
      ++count;
    }
  }
}

// Written without branches, for the compiler to vectorize.
void penalize_row(const PenaltyArgs& a, i64 row) {
  if (a.slots[row] < 0) return;
  const u16* counts = a.counts + a.slots[row] * a.vocab;
  float* x = a.logits + row * a.stride;
  const float repetition = a.repetition[row], presence = a.presence[row], frequency = a.frequency[row];
  for (i64 i = 0; i < a.vocab; ++i) {
    const int made = counts[i] & kMost;
    const float factor = counts[i] ? repetition : 1.0f;
    const float v = x[i] > 0 ? x[i] / factor : x[i] * factor;
    x[i] = v - frequency * static_cast<float>(made) - (made > 0 ? presence : 0.0f);
  }
}

void mask_row(const MaskArgs& a, i64 row) {
  const i64 line = a.lines ? a.lines[row] : row;
  if (line < 0) return;
  const i64 words = ceil_div(a.vocab, 32);
  const u32* mask = a.mask + line * words;
  for (i64 w = 0; w < words; ++w) {
    if (mask[w] == 0xffffffffu) continue;
    float* x = a.logits + row * a.stride + w * 32;
    const i64 n = min_of(32, a.vocab - w * 32);
    for (i64 i = 0; i < n; ++i) x[i] = (mask[w] >> i) & 1 ? x[i] : -kInfinity;
  }
}

}  // namespace

void count_tokens(Pool& pool, const CountArgs& a) {
  parallel(pool, a.rows, a.rows * a.tokens_per_row * 8, [&](i64 row) { count_row(a, row); });
}

void apply_penalties(Pool& pool, const PenaltyArgs& a) {
  parallel(pool, a.rows, a.rows * a.vocab * 2, [&](i64 row) { penalize_row(a, row); });
}

void apply_mask(Pool& pool, const MaskArgs& a) {
  parallel(pool, a.rows, a.rows * a.vocab / 2, [&](i64 row) { mask_row(a, row); });
}

void apply_bias(Pool&, const BiasArgs& a) {
  for (i64 i = 0; i < a.entries; ++i)
    if (a.rows[i] >= 0) a.logits[a.rows[i] * a.stride + a.tokens[i]] += a.values[i];
}

}  // namespace ts::TS_ISA
