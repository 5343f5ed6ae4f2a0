// Gated delta rule (arXiv 2412.06464), token by token: decode, and prefill of several rows.
//
// A task takes one row, one head and a block of value columns, whose state [key_dim][columns] stays in the first-level
// cache (32 KB at a key width of 128) for all tokens of the row. Sums run down the columns, so nothing is summed across
// a vector. A token costs one pass over the state: the pass that writes S also reads it for this token's query and for
// the next token's key.
#include <cmath>

#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

constexpr i64 kVectors = 4, kColumns = kVectors * W;

struct Columns {
  vf v[kVectors];
};

struct Task {
  i64 row, head, column, count;  // count: columns that exist, at most kColumns
};

// One token's part in a head: normed key and query, decay of the state and strength of the update.
struct Token {
  float* key;
  float* query;
  float decay, beta;
};

TS_INLINE float scalar_sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }
TS_INLINE float softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }

// to = x / sqrt(sum(x^2) + 1e-6) * scale
void unit(const void* x, DType dtype, i64 n, float scale, float* to) {
  vf squares = zero();
  for (i64 i = 0; i < n; i += W) {
    const vf v = load_as_float(x, dtype, i, n - i);
    squares = fma(v, v, squares);
  }
  const vf factor = set1(scale / std::sqrt(hsum(squares) + 1e-6f));
  for (i64 i = 0; i < n; i += W) store_as(to, DType::f32, i, load_as_float(x, dtype, i, n - i) * factor, n - i);
}

void read_token(const DeltaArgs& a, const Task& task, i64 t, Token& token) {
  const i64 head = task.head / (a.value_heads / a.key_heads) * a.key_dim;
  unit(at(a.k, a.dtype, t * a.k_stride + head), a.dtype, a.key_dim, 1.0f, token.key);
  unit(at(a.q, a.dtype, t * a.q_stride + head), a.dtype, a.key_dim, a.scale, token.query);
  const float step = load_scalar(a.a, a.gate_dtype, t * a.a_stride + task.head) + a.dt_bias[task.head];
  token.decay = std::exp(-std::exp(a.a_log[task.head]) * softplus(step));
  token.beta = scalar_sigmoid(load_scalar(a.b, a.gate_dtype, t * a.b_stride + task.head));
}

Columns recall(const float* state, const float* key, i64 key_dim) {
  Columns sum;
  for (i64 j = 0; j < kVectors; ++j) sum.v[j] = zero();
  for (i64 i = 0; i < key_dim; ++i)
    for (i64 j = 0; j < kVectors; ++j) sum.v[j] = fma(set1(key[i]), load(state + i * kColumns + j * W), sum.v[j]);
  return sum;
}

// state = state * decay + key * change; gives query . state, and next . state in `recalled`.
template <bool kNext>
Columns update(float* state, const Token& token, const Columns& change, i64 key_dim, const float* next,
               Columns& recalled) {
  Columns out, memory;
  for (i64 j = 0; j < kVectors; ++j) out.v[j] = memory.v[j] = zero();
  const vf decay = set1(token.decay);
  for (i64 i = 0; i < key_dim; ++i) {
    const vf key = set1(token.key[i]), query = set1(token.query[i]);
    for (i64 j = 0; j < kVectors; ++j) {
      float* p = state + i * kColumns + j * W;
      const vf s = fma(key, change.v[j], load(p) * decay);
      store(p, s);
      out.v[j] = fma(query, s, out.v[j]);
      if constexpr (kNext) memory.v[j] = fma(set1(next[i]), s, memory.v[j]);
    }
  }
  if constexpr (kNext) recalled = memory;
  return out;
}

void load_state(const DeltaArgs& a, const Task& task, const float* from, float* state) {
  const bool fresh = a.fresh && a.fresh[task.row];
  for (i64 i = 0; i < a.key_dim; ++i)
    for (i64 j = 0; j < kColumns; j += W) {
      const vf s = fresh ? zero() : load_as_float(from + i * a.value_dim, DType::f32, j, max_of(task.count - j, 0));
      store(state + i * kColumns + j, s);
    }
}

void save_state(const DeltaArgs& a, const Task& task, const float* state, float* to) {
  for (i64 i = 0; i < a.key_dim; ++i)
    for (i64 j = 0; j < task.count; j += W)
      store_as(to + i * a.value_dim, DType::f32, j, load(state + i * kColumns + j), task.count - j);
}

TS_INLINE void write_row(const DeltaArgs& a, const Task& task, i64 t, const Columns& out) {
  void* to = at(a.out, a.dtype, (t * a.value_heads + task.head) * a.value_dim + task.column);
  for (i64 j = 0; j < kVectors; ++j)
    if (j * W < task.count) store_as(to, a.dtype, j * W, out.v[j], task.count - j * W);
}

// The new value's difference from what the decayed state recalls, times beta.
TS_INLINE Columns change_of(const DeltaArgs& a, const Task& task, i64 t, const Token& token, const Columns& recalled) {
  const void* v = at(a.v, a.dtype, t * a.v_stride + task.head * a.value_dim + task.column);
  Columns change;
  for (i64 j = 0; j < kVectors; ++j) {
    const i64 left = max_of(task.count - j * W, 0);
    const vf value = load_as_float(v, a.dtype, j * W, left);
    change.v[j] = (value - recalled.v[j] * set1(token.decay)) * set1(token.beta);
  }
  return change;
}

void run_tokens(const DeltaArgs& a, const Task& task, i64 first, i64 end, float* state) {
  const i64 padded = round_up(a.key_dim, W);
  float* vectors = scratch_of<float>(Slot::query, 4 * padded);
  Token now{vectors, vectors + padded, 0, 0}, next{vectors + 2 * padded, vectors + 3 * padded, 0, 0};
  read_token(a, task, first, now);
  Columns recalled = recall(state, now.key, a.key_dim);
  for (i64 t = first; t < end; ++t) {
    const Columns change = change_of(a, task, t, now, recalled);
    const bool more = t + 1 < end;
    if (more) read_token(a, task, t + 1, next);
    write_row(a, task, t,
              more ? update<true>(state, now, change, a.key_dim, next.key, recalled)
                   : update<false>(state, now, change, a.key_dim, nullptr, recalled));
    const Token old = now;
    now = next;
    next = old;
  }
}

void run_task(const DeltaArgs& a, const Task& task) {
  const i64 first = a.cu_q ? a.cu_q[task.row] : task.row, end = a.cu_q ? a.cu_q[task.row + 1] : task.row + 1;
  const i64 slot = a.slots[task.row];
  if (slot < 0) {
    Columns nothing;
    for (i64 j = 0; j < kVectors; ++j) nothing.v[j] = zero();
    for (i64 t = first; t < end; ++t) write_row(a, task, t, nothing);
    return;
  }
  float* pool = a.states + (slot * a.value_heads + task.head) * a.key_dim * a.value_dim + task.column;
  float* state = scratch_of<float>(Slot::row_state, a.key_dim * kColumns);
  load_state(a, task, pool, state);
  if (first < end) run_tokens(a, task, first, end, state);
  save_state(a, task, state, pool);
}

}  // namespace

void gated_delta(Pool& pool, const DeltaArgs& a) {
  const i64 blocks = ceil_div(a.value_dim, kColumns);
  const i64 tokens = a.cu_q ? a.cu_q[a.rows] : a.rows;
  parallel(pool, a.rows * a.value_heads * blocks, tokens * a.value_heads * a.key_dim * a.value_dim * 4, [&](i64 i) {
    const i64 column = i % blocks * kColumns;
    run_task(a,
             {i / blocks / a.value_heads, i / blocks % a.value_heads, column, min_of(kColumns, a.value_dim - column)});
  });
}

}  // namespace ts::TS_ISA
