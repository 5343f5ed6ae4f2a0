// MLA attention in the absorbed form: q_nope is taken into the latent space, where keys and values are the cached rows.
//
// A row of the cache is loaded once for all heads. The keys are split at fixed places (flash decoding): a task is one
// split of one block of queries, and the partial results are merged in order, so a row's result depends neither on the
// batch nor on the number of threads.
#include <algorithm>
#include <cmath>

#include "ops/attention.h"
#include "ops/gemm.h"

namespace ts::TS_ISA {
namespace {

constexpr i64 kSplit = 512;     // keys a task reads: about 20 us for 4 heads of width 80
constexpr i64 kKeys = 64;       // keys at a time: their transpose (20 KB at width 80) stays in the level-1 cache
constexpr i64 kQueryRows = 64;  // queries x heads at a time

struct Block {
  i64 row, first, count;  // queries [first, first + count) of a row, counted in the row
  i64 position;           // of query `first`
  i64 splits;
  i64 state;  // offset of the partial results
};

struct Plan {
  Block* blocks;
  i64 count, tasks, state_size, tokens;
};

TS_INLINE i64 state_of(i64 rows, i64 latent) { return rows * (latent + 2); }

Plan make_plan(const AttentionArgs& a) {
  const i64 heads = a.projection->heads, step = max_of(1, kQueryRows / heads);
  Plan plan{nullptr, 0, 0, 0, first_query(a, a.rows)};
  for (i64 row = 0; row < a.rows; ++row) plan.count += ceil_div(queries_of(a, row), step);
  plan.blocks = scratch_of<Block>(Slot::order, plan.count);
  i64 index = 0;
  for (i64 row = 0; row < a.rows; ++row) {
    const i64 queries = queries_of(a, row);
    for (i64 first = 0; first < queries; first += step) {
      Block& b = plan.blocks[index++];
      b = {row, first, min_of(step, queries - first), a.seq_lens[row] - queries + first, 0, plan.state_size};
      b.splits = ceil_div(b.position + b.count, kSplit);
      plan.state_size += b.splits * state_of(b.count * heads, a.projection->latent);
      plan.tasks += b.splits;
    }
  }
  return plan;
}

// The caller's absorbed queries, likewise.
void take_queries(const AttentionArgs& a, i64 tokens, float* absorbed) {
  const i64 heads = a.projection->heads, latent = a.projection->latent;
  const vf scale = set1(a.scale * kLog2e);
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
  const vf scale = set1(a.scale * kLog2e);
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

void attend_split(const AttentionArgs& a, const Block& b, i64 split, const float* absorbed, float* state) {
  const KvProjection& kv = *a.projection;
  const i64 width = kv.latent + a.rope_dim, stride = round_up(width, kPanel), rows = b.count * kv.heads;
  const float* q = absorbed + (first_query(a, b.row) + b.first) * kv.heads * width;
  state += b.state + split * state_of(rows, kv.latent);
  float* out = state + 2 * rows;
  float* key_rows = scratch_of<float>(Slot::key_rows, kKeys * stride);
  float* key_columns = scratch_of<float>(Slot::key_columns, stride * kKeys);
  float* scores = scratch_of<float>(Slot::scores, rows * kKeys);
  const SoftmaxState softmax{state, state + rows, scratch_of<float>(Slot::row_state, rows)};
  for (i64 r = 0; r < rows; ++r) softmax.maximum[r] = kMasked, softmax.total[r] = 0;
  const PagedKeys keys = keys_of(a, b.row);
  const i64 end = min_of((split + 1) * kSplit, b.position + b.count);
  for (i64 key = split * kSplit; key < end; key += kKeys) {
    const i64 count = min_of(kKeys, end - key);
    load_keys(keys, key, count, key_rows, stride);
    transpose(key_rows, stride, count, width, key_columns, kKeys);
    const i64 columns = round_up(count, kPanel);
    multiply<Format::f32>({q, width, operand_of(key_columns, kKeys), width, scores, kKeys, columns}, rows);
    softmax_step(scores, kKeys, rows, columns, softmax,
                 [&](i64 r) TS_LAMBDA { return min_of(count, b.position + r / kv.heads + 1 - key); });
    const Start start = key == split * kSplit ? Start::from_zero : Start::from_out;
    multiply<Format::f32>(
        {scores, kKeys, operand_of(key_rows, stride), count, out, kv.latent, kv.latent, start, softmax.factor}, rows);
  }
}

// merged[row of the block] = the normalised sum of the splits' outputs; gives the log-sum-exp.
float merge_row(const Block& b, i64 row, i64 rows, i64 latent, const float* state, float* merged) {
  const i64 step = state_of(rows, latent);
  float maximum = kMasked, total = 0;
  for (i64 s = 0; s < b.splits; ++s) maximum = state[s * step + row] > maximum ? state[s * step + row] : maximum;
  for (i64 s = 0; s < b.splits; ++s) {
    const float factor = std::exp2(state[s * step + row] - maximum);
    total += factor * state[s * step + rows + row];
    const float* out = state + s * step + 2 * rows + row * latent;
    for (i64 i = 0; i < latent; i += W) {
      const i64 n = latent - i;
      const vf before = s == 0 ? zero() : load_as_float(merged, DType::f32, i, n);
      store_as(merged, DType::f32, i, fma(set1(factor), load_as_float(out, DType::f32, i, n), before), n);
    }
  }
  const vf inverse = set1(1.0f / total);
  for (i64 i = 0; i < latent; i += W)
    store_as(merged, DType::f32, i, load_as_float(merged, DType::f32, i, latent - i) * inverse, latent - i);
  return (maximum + std::log2(total)) / kLog2e;
}

void merge_block(const AttentionArgs& a, const Block& b, const float* state, float* merged) {
  const i64 heads = a.projection->heads, latent = a.projection->latent, rows = b.count * heads;
  const i64 first = (first_query(a, b.row) + b.first) * heads;
  for (i64 r = 0; r < rows; ++r) {
    const float lse = merge_row(b, r, rows, latent, state + b.state, merged + (first + r) * latent);
    if (a.lse) a.lse[first + r] = lse;
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
  float* absorbed = scratch_of<float>(Slot::q_latent, plan.tokens * kv.heads * width);
  float* state = scratch_of<float>(Slot::split_state, plan.state_size);
  float* merged = scratch_of<float>(Slot::merged, plan.tokens * kv.heads * kv.latent);
  absorb_queries(pool, a, plan.tokens, absorbed);
  // Rows of padding belong to no block: their merged latent is zero, and so is what they give.
  for (i64 i = 0; i < plan.tokens * kv.heads * kv.latent; ++i) merged[i] = 0;
  if (a.lse) std::fill_n(a.lse, plan.tokens * kv.heads, -HUGE_VALF);
  i64* task_block = scratch_of<i64>(Slot::candidates, 2 * plan.tasks);
  i64 keys = 0;
  for (i64 b = 0, task = 0; b < plan.count; ++b) {
    keys += plan.blocks[b].count * (plan.blocks[b].position + 1);
    for (i64 s = 0; s < plan.blocks[b].splits; ++s, ++task) task_block[2 * task] = b, task_block[2 * task + 1] = s;
  }
  parallel(pool, plan.tasks, keys * kv.heads * (width + kv.latent) * 2, [&](i64 task) {
    attend_split(a, plan.blocks[task_block[2 * task]], task_block[2 * task + 1], absorbed, state);
  });
  parallel(pool, plan.count, plan.state_size * 4, [&](i64 b) { merge_block(a, plan.blocks[b], state, merged); });
  project_values(pool, a, plan.tokens, merged);
}

}  // namespace ts::TS_ISA
