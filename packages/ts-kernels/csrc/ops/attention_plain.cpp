// MLA attention in the plain form: keys and values are expanded from the cached latents, one tile of keys and one head
// at a time, and every query of the chunk uses the tile before it is dropped.
//
// Against the absorbed form a (query, key) pair costs nope + rope + v multiply-adds instead of 2 * latent + rope (80
// instead of 144 in the miniature, 320 instead of 1,088 in Kimi K2.5), and a key costs latent * (nope + v) once a
// chunk.
#include "ops/attention.h"
#include "ops/gemm.h"

namespace ts::TS_ISA {
namespace {

constexpr i64 kKeys = 128;    // keys of a tile
constexpr i64 kQueries = 48;  // queries of a score block: kQueries x kKeys scores (24 KB) stay close

// Queries [first, first + count) of a row, one head.
struct Task {
  i64 row, head, first, count;
};

struct Sizes {
  i64 nope, rope, v, latent, q_dim;
  i64 row_stride;    // of the cached rows as fp32
  i64 value_stride;  // of the expanded values, and of the output state
};

Sizes sizes_of(const AttentionArgs& a) {
  const KvProjection& kv = *a.projection;
  return {kv.nope,
          a.rope_dim,
          kv.v,
          kv.latent,
          kv.nope + a.rope_dim,
          round_up(kv.latent, kPanel) + round_up(a.rope_dim, kPanel),
          round_up(kv.v, kPanel)};
}

// The task's queries as dense fp32 rows, scaled.
void load_queries(const AttentionArgs& a, const Sizes& s, const Task& task, float* q) {
  const vf scale = set1(a.scale * kLog2e * unit_of(a));
  for (i64 i = 0; i < task.count; ++i) {
    const i64 token = first_query(a, task.row) + task.first + i;
    const void* from = at(a.q, a.dtype, token * a.q_stride + task.head * s.q_dim);
    for (i64 j = 0; j < s.q_dim; j += W)
      store_as(q + i * s.q_dim, DType::f32, j, load_as_float(from, a.dtype, j, s.q_dim - j) * scale, s.q_dim - j);
  }
}

// keys [nope + rope][kKeys] (transposed) and values [count][v] of one head.
void expand_tile(const AttentionArgs& a, const Sizes& s, const Task& task, i64 first, i64 count, float* keys,
                 float* values) {
  const KvProjection& kv = *a.projection;
  float* rows = scratch_of<float>(Slot::key_rows, kKeys * s.row_stride + kPanel);
  float* columns = scratch_of<float>(Slot::key_columns, round_up(s.latent, kPanel) * kKeys);
  const char* cached[kKeys];
  const PagedKeys of_row = keys_of(a, task.row);
  find_keys(of_row, first, count, cached);
  for (i64 i = 0; i < count; ++i) widen_key(of_row, cached[i], rows + i * s.row_stride);
  transpose(rows, s.row_stride, count, s.latent, columns, kKeys);
  transpose(rows + s.latent, s.row_stride, count, s.rope, keys + s.nope * kKeys, kKeys);
  const float* up_key = kv.up_key.as<float>() + task.head * s.nope * s.latent;
  multiply<Format::f32>({up_key, s.latent, operand_of(columns, kKeys), s.latent, keys, kKeys, round_up(count, kPanel)},
                        s.nope);
  multiply_panels(kv.latent_to_value[static_cast<std::size_t>(task.head)].view(), rows, s.row_stride, count, 0, s.v,
                  values, s.value_stride);
}

struct TaskState {
  float* q;
  float* out;  // [count][value_stride]
  SoftmaxState softmax;
};

// position: of the task's first query.
void attend_tile(const Sizes& s, const Task& task, const TaskState& state, i64 position, i64 first, i64 count,
                 const float* keys, const float* values, float* scores) {
  for (i64 q = 0; q < task.count; q += kQueries) {
    const i64 rows = min_of(kQueries, task.count - q);
    const i64 seen = min_of(count, position + q + rows - first);  // keys that the block's last query may see
    if (seen <= 0) continue;
    const i64 columns = round_up(seen, kPanel);
    const SoftmaxState softmax{state.softmax.maximum + q, state.softmax.total + q, state.softmax.factor};
    float* out = state.out + q * s.value_stride;
    multiply<Format::f32>({state.q + q * s.q_dim, s.q_dim, operand_of(keys, kKeys), s.q_dim, scores, kKeys, columns},
                          rows);
    softmax_step(scores, kKeys, rows, columns, softmax,
                 [&](i64 r) TS_LAMBDA { return min_of(count, position + q + r + 1 - first); });
    multiply<Format::f32>({scores, kKeys, operand_of(values, s.value_stride), seen, out, s.value_stride, s.value_stride,
                           first == 0 ? Start::from_zero : Start::from_out, softmax.factor},
                          rows);
  }
}

void write_output(const AttentionArgs& a, const Sizes& s, const Task& task, const TaskState& state) {
  const i64 stride = a.projection->heads * s.v;
  for (i64 i = 0; i < task.count; ++i) {
    const i64 token = first_query(a, task.row) + task.first + i;
    void* to = at(a.out, a.dtype, token * stride + task.head * s.v);
    const vf inverse = set1(unit_of(a) / state.softmax.total[i]);
    for (i64 j = 0; j < s.v; j += W)
      store_as(to, a.dtype, j, load(state.out + i * s.value_stride + j) * inverse, s.v - j);
  }
}

void attend_task(const AttentionArgs& a, const Task& task) {
  const Sizes s = sizes_of(a);
  float* row_state = scratch_of<float>(Slot::row_state, 2 * task.count + kQueries);
  const TaskState state{scratch_of<float>(Slot::query, task.count * s.q_dim),
                        scratch_of<float>(Slot::output, task.count * s.value_stride),
                        {row_state, row_state + task.count, row_state + 2 * task.count}};
  for (i64 i = 0; i < task.count; ++i) state.softmax.maximum[i] = kLowest, state.softmax.total[i] = 0;
  load_queries(a, s, task, state.q);
  float* keys = scratch_of<float>(Slot::keys, (s.nope + round_up(s.rope, kPanel)) * kKeys);
  float* values = scratch_of<float>(Slot::values, kKeys * s.value_stride);
  float* scores = scratch_of<float>(Slot::scores, kQueries * kKeys);
  const i64 position = a.seq_lens[task.row] - queries_of(a, task.row) + task.first;
  const i64 end = position + task.count;
  for (i64 first = 0; first < end; first += kKeys) {
    const i64 count = min_of(kKeys, end - first);
    expand_tile(a, s, task, first, count, keys, values);
    attend_tile(s, task, state, position, first, count, keys, values, scores);
  }
  write_output(a, s, task, state);
}

}  // namespace

void attend_plain(Pool& pool, const AttentionArgs& a) {
  const KvProjection& kv = *a.projection;
  // A task takes all queries of a row and head, so that no tile is expanded twice; long rows are cut where there are
  // too few heads to occupy the threads.
  const i64 longest = kv.heads * a.rows % threads_of(pool) == 0 ? 2048 : 512;
  i64 tasks = 0, pairs = 0;
  for (i64 row = 0; row < a.rows; ++row) {
    tasks += ceil_div(queries_of(a, row), longest) * kv.heads;
    pairs += queries_of(a, row) * a.seq_lens[row] * kv.heads;
  }
  Task* list = scratch_of<Task>(Slot::order, tasks);
  i64 index = 0;
  for (i64 row = 0; row < a.rows; ++row)
    for (i64 first = 0; first < queries_of(a, row); first += longest)
      for (i64 h = 0; h < kv.heads; ++h) list[index++] = {row, h, first, min_of(longest, queries_of(a, row) - first)};
  const i64 per_pair = kv.nope + a.rope_dim + kv.v;
  parallel(pool, tasks, pairs * per_pair, [&](i64 task) { attend_task(a, list[task]); });
}

}  // namespace ts::TS_ISA
