// MLA attention in the absorbed form: q_nope is taken into the latent space, where keys and values are the cached rows.
//
// A row of the cache is loaded once for all heads. The keys are split at fixed places (flash decoding): a task is one
// split of one block of queries, and the partial results are merged in order, so a row's result depends neither on the
// batch nor on the number of threads.
#include <algorithm>
#include <cmath>

#include "ops/gemm.h"
#include "ops/latent_tiles.h"

namespace ts::TS_ISA {
namespace {

constexpr i64 kSplit = 2 * kKeys;  // keys of a task
constexpr i64 kQueryRows = 64;     // queries x heads at a time

struct Block {
  i64 row, first, count;  // queries [first, first + count) of a row, counted in the row
  i64 position;           // of query `first`
  i64 splits;
  i64 queries, state;  // offsets of its queries, by columns, and of its partial results
};

// Of a block of so many rows. A split's state: maxima and totals of the lanes, then the output rows.
struct Sizes {
  i64 rows, lanes, width, latent, out_stride;

  TS_INLINE i64 queries(const Sizes& s) { return s.lanes * round_up(s.width, W); }
  TS_INLINE i64 state(const Sizes& s) { return 2 * s.lanes + s.rows * s.out_stride; }
};

TS_INLINE Sizes sizes_of(const AttentionArgs& a, const Block& b) {
  const i64 rows = b.count * a.projection->heads, latent = a.projection->latent, width = latent + a.rope_dim;
  return {rows, round_up(rows, W), width, latent, spread(round_up(latent, kLanes) * 4) / 4};
}

struct Plan {
  Block* blocks;
  i64 count, tasks, query_size, state_size, tokens;
};

Plan make_plan(const AttentionArgs& a) {
  const i64 step = max_of(1, kQueryRows / a.projection->heads);
  Plan plan{nullptr, 0, 0, 0, 0, first_query(a, a.rows)};
  for (i64 row = 0; row < a.rows; ++row) plan.count += ceil_div(queries_of(a, row), step);
  plan.blocks = scratch_of<Block>(Slot::order, plan.count);
  i64 index = 0;
  for (i64 row = 0; row < a.rows; ++row) {
    const i64 queries = queries_of(a, row);
    for (i64 first = 0; first < queries; first += step) {
      Block& b = plan.blocks[index++];
      b = {row, first, min_of(step, queries - first), a.seq_lens[row] - queries + first, 0, 0, 0};
      const Sizes s = sizes_of(a, b);
      b.splits = ceil_div(b.position + b.count, kSplit), b.queries = plan.query_size, b.state = plan.state_size;
      plan.query_size += Sizes::queries(s);
      plan.state_size += b.splits * Sizes::state(s);
      plan.tasks += b.splits;
    }
  }
  return plan;
}

// The caller's absorbed queries, likewise.
void take_queries(const AttentionArgs& a, i64 tokens, float* absorbed) {
  const i64 heads = a.projection->heads, latent = a.projection->latent;
  const vf scale = set1(a.scale * kLog2e * unit_of(a));
  for (i64 t = 0; t < tokens; ++t)
    for (i64 h = 0; h < heads; ++h, absorbed += latent + a.rope_dim) {
      const void* main = at(a.q, a.dtype, t * a.q_stride + h * latent);
      const void* rope = at(a.q_rope, a.dtype, t * a.q_rope_stride + h * a.rope_dim);
      for (i64 i = 0; i < latent; i += W)
        store_as(absorbed, DType::f32, i, load_as_float(main, a.dtype, i, latent - i) * scale, latent - i);
      for (i64 i = 0; i < a.rope_dim; i += W)
        store_as(absorbed + latent, DType::f32, i, load_as_float(rope, a.dtype, i, a.rope_dim - i) * scale,
                 a.rope_dim - i);
    }
}

// q [tokens][heads][latent + rope], scaled.
void absorb_queries(Pool& pool, const AttentionArgs& a, i64 tokens, float* absorbed) {
  if (a.q_rope) return take_queries(a, tokens, absorbed);
  const KvProjection& kv = *a.projection;
  const i64 width = kv.latent + a.rope_dim, head_dim = kv.nope + a.rope_dim;
  i64 stride;
  const float* q = as_fp32(a.q, a.q_stride, tokens, kv.heads * head_dim, a.dtype, Slot::query, &stride);
  const vf scale = set1(a.scale * kLog2e * unit_of(a));
  parallel(pool, kv.heads, tokens * kv.heads * kv.nope * kv.latent, [&](i64 h) {
    float* out = absorbed + h * width;
    multiply_panels(kv.query_to_latent[static_cast<std::size_t>(h)].view(), q + h * head_dim, stride, tokens, 0,
                    kv.latent, out, kv.heads * width);
    for (i64 t = 0; t < tokens; ++t, out += kv.heads * width) {
      const float* rope = q + t * stride + h * head_dim + kv.nope;
      for (i64 i = 0; i < kv.latent; i += W)
        store_as(out, DType::f32, i, load_as_float(out, DType::f32, i, kv.latent - i) * scale, kv.latent - i);
      for (i64 i = 0; i < a.rope_dim; i += W)
        store_as(out + kv.latent, DType::f32, i, load_as_float(rope, DType::f32, i, a.rope_dim - i) * scale,
                 a.rope_dim - i);
    }
  });
}

// A block's queries by columns: panels [width][kLanes] side by side, the last of one vector where that holds its rows.
void turn_queries(const AttentionArgs& a, const Block& b, const float* absorbed, float* queries) {
  const Sizes s = sizes_of(a, b);
  const float* from = absorbed + (first_query(a, b.row) + b.first) * a.projection->heads * s.width;
  for (i64 lane = 0; lane < s.lanes; lane += kLanes) {
    const i64 lanes = min_of(kLanes, s.lanes - lane);
    transpose(from + lane * s.width, s.width, lanes, s.width, queries + b.queries + lane * round_up(s.width, W), lanes);
  }
}

// scores[key][lanes] of `count` keys, which become fp32 in `keys` on the way, a tile's at a time, so that they are
// close when they are multiplied; `rows` go on for a tile after them.
template <class T>
void score_block(const Sizes& s, const char* const* rows, i64 count, const float* queries, float* keys, float* scores) {
  for (i64 tile = 0; tile < count; tile += kScoreKeys) {
    float* wide = keys + tile * kLanes;
    for (i64 k = 0; k < min_of(kScoreKeys, count - tile); ++k)
      widen_columns<T>(rows[tile + k], s.width, wide + k * kLanes);
    const Coming coming{rows + tile + kScoreKeys, sizeof(T)};
    for (i64 lane = 0; lane < s.lanes; lane += kLanes) {
      const auto run = s.lanes - lane > W ? score_tile<2> : score_tile<1>;
      run(queries + lane * round_up(s.width, W), wide, s.width, coming, scores + tile * s.lanes + lane, s.lanes);
    }
  }
}

// Scores of keys that a row may not see. Where it sees none of a split, the split's maximum is kLowest, and merging
// gives it no weight.
void mask_block(const AttentionArgs& a, const Block& b, const Sizes& s, i64 key, i64 count, float* scores) {
  if (b.position + 1 >= key + count) return;
  for (i64 r = 0; r < s.rows; ++r)
    for (i64 k = max_of(0, b.position + r / a.projection->heads + 1 - key); k < count; ++k)
      scores[k * s.lanes + r] = kUnseen;
}

template <int... R>
TS_INLINE auto pick_mix(i64 rows, std::integer_sequence<int, R...>) {
  static constexpr decltype(&mix_tile<1>) tiles[] = {mix_tile<R + 1>...};
  return tiles[rows - 1];
}

void mix_block(const Sizes& s, const float* scores, const float* keys, i64 count, bool fresh, const float* factor,
               float* out) {
  const i64 groups = ceil_div(s.rows, kMixRows);
  for (i64 column = 0; column < s.latent; column += kLanes)
    for (i64 group = 0; group < groups; ++group) {  // of equal height, to one row
      const i64 r = s.rows * group / groups, rows = s.rows * (group + 1) / groups - r;
      pick_mix(rows, std::make_integer_sequence<int, kMixRows>{})(
          scores + r, s.lanes, keys + column / kLanes * kPanelSize, count, fresh, factor + r,
          out + r * s.out_stride + column, s.out_stride);
    }
}

template <class T>
void attend_split_of(const AttentionArgs& a, const Block& b, i64 split, const float* queries, float* state) {
  const Sizes s = sizes_of(a, b);
  state += b.state + split * Sizes::state(s);
  float* wide = scratch_of<float>(Slot::key_rows, panels_size(s.width));
  float* scores = scratch_of<float>(Slot::scores, kKeys * s.lanes);
  const SoftmaxState softmax{state, state + s.lanes, scratch_of<float>(Slot::row_state, s.lanes)};
  std::fill_n(softmax.maximum, s.lanes, kLowest), std::fill_n(softmax.total, s.lanes, 0.0f);
  const i64 begin = split * kSplit, keys = min_of(kSplit, b.position + b.count - begin);
  const char* rows[kSplit + kScoreKeys];
  find_keys(keys_of(a, b.row), begin, keys, rows);
  std::fill_n(rows + keys, kSplit + kScoreKeys - keys, rows[keys - 1]);
  for (i64 key = 0; key < keys; key += kKeys) {
    const i64 count = min_of(kKeys, keys - key);
    score_block<T>(s, rows + key, count, queries + b.queries, wide, scores);
    mask_block(a, b, s, begin + key, count, scores);
    softmax_down(scores, s.lanes, count, softmax);
    mix_block(s, scores, wide, count, key == 0, softmax.factor, state + 2 * s.lanes);
  }
}

void attend_split(const AttentionArgs& a, const Block& b, i64 split, const float* queries, float* state) {
  if (a.cache_dtype == DType::f32) return attend_split_of<float>(a, b, split, queries, state);
  if (a.cache_dtype == DType::bf16) return attend_split_of<u16>(a, b, split, queries, state);
  attend_split_of<u8>(a, b, split, queries, state);
}

// merged = the normalised sum of the splits' outputs of one row, times unit; gives the log-sum-exp.
float merge_row(const Sizes& s, i64 splits, i64 row, float unit, const float* state, float* merged) {
  const i64 step = Sizes::state(s);
  float* weights = scratch_of<float>(Slot::row_state, splits);
  float maximum = kLowest, total = 0;
  for (i64 i = 0; i < splits; ++i) maximum = state[i * step + row] > maximum ? state[i * step + row] : maximum;
  for (i64 i = 0; i < splits; ++i) {
    weights[i] = std::exp2(state[i * step + row] - maximum);
    total += weights[i] * state[i * step + s.lanes + row];
  }
  const vf inverse = set1(unit / total);
  const float* out = state + 2 * s.lanes + row * s.out_stride;
  for (i64 j = 0; j < s.latent; j += W) {
    vf sum = zero();
    for (i64 i = 0; i < splits; ++i) sum = fma(set1(weights[i]), load(out + i * step + j), sum);
    store_as(merged, DType::f32, j, sum * inverse, s.latent - j);
  }
  return (maximum + std::log2(total)) / kLog2e;
}

void merge_head(const AttentionArgs& a, const Block& b, i64 head, const float* state, float* merged) {
  const i64 heads = a.projection->heads, latent = a.projection->latent;
  const Sizes s = sizes_of(a, b);
  for (i64 i = 0; i < b.count; ++i) {
    const i64 out = (first_query(a, b.row) + b.first + i) * heads + head;
    const float lse = merge_row(s, b.splits, i * heads + head, unit_of(a), state + b.state, merged + out * latent);
    if (a.lse) a.lse[out] = lse;
  }
}

void project_values(Pool& pool, const AttentionArgs& a, i64 tokens, const float* merged) {
  const KvProjection& kv = *a.projection;
  if (a.q_rope)
    return write_rows(merged, kv.heads * kv.latent, tokens, kv.heads * kv.latent, a.out, kv.heads * kv.latent, a.dtype);
  const i64 out_stride = kv.heads * kv.v;
  float* direct =
      a.dtype == DType::f32 ? static_cast<float*>(a.out) : scratch_of<float>(Slot::output, tokens * out_stride);
  parallel(pool, kv.heads, tokens * kv.heads * kv.v * kv.latent, [&](i64 h) {
    multiply_panels(kv.latent_to_value[static_cast<std::size_t>(h)].view(), merged + h * kv.latent,
                    kv.heads * kv.latent, tokens, 0, kv.v, direct + h * kv.v, out_stride);
  });
  if (a.dtype != DType::f32) write_rows(direct, out_stride, tokens, out_stride, a.out, out_stride, a.dtype);
}

}  // namespace

void attend_absorbed(Pool& pool, const AttentionArgs& a) {
  const KvProjection& kv = *a.projection;
  const i64 width = kv.latent + a.rope_dim;
  const Plan plan = make_plan(a);
  // What is turned by whole vectors is read to the end of a vector.
  float* absorbed = scratch_of<float>(Slot::q_latent, (plan.tokens * kv.heads + W) * width + W);
  float* queries = scratch_of<float>(Slot::query_columns, plan.query_size);
  float* state = scratch_of<float>(Slot::split_state, plan.state_size);
  float* merged = scratch_of<float>(Slot::merged, plan.tokens * kv.heads * kv.latent);
  absorb_queries(pool, a, plan.tokens, absorbed);
  parallel(pool, plan.count, plan.query_size, [&](i64 b) { turn_queries(a, plan.blocks[b], absorbed, queries); });
  // Rows of padding belong to no block: their merged latent is zero, and so is what they give.
  for (i64 i = 0; i < plan.tokens * kv.heads * kv.latent; ++i) merged[i] = 0;
  if (a.lse) std::fill_n(a.lse, plan.tokens * kv.heads, -HUGE_VALF);
  i64* task_block = scratch_of<i64>(Slot::candidates, 2 * plan.tasks);
  i64 keys = 0;
  for (i64 b = 0, task = 0; b < plan.count; ++b) {
    keys += plan.blocks[b].count * (plan.blocks[b].position + 1);
    for (i64 s = 0; s < plan.blocks[b].splits; ++s, ++task) task_block[2 * task] = b, task_block[2 * task + 1] = s;
  }
  parallel(pool, plan.tasks, keys * kv.heads * (width + kv.latent), [&](i64 task) {
    attend_split(a, plan.blocks[task_block[2 * task]], task_block[2 * task + 1], queries, state);
  });
  parallel(pool, plan.count * kv.heads, plan.state_size,
           [&](i64 task) { merge_head(a, plan.blocks[task / kv.heads], task % kv.heads, state, merged); });
  project_values(pool, a, plan.tokens, merged);
}

}  // namespace ts::TS_ISA
