// Attention of many queries a row over paged keys and values: matrix products over tiles of keys.
//
// A task is one head of the cache and some queries of a row, for all query heads that share it: a tile of keys is
// widened and transposed once for them all.
#include "ops/attention_paged.h"

namespace ts::TS_ISA {
namespace {

constexpr i64 kKeys = 128;  // keys of a tile
constexpr i64 kRows = 48;   // rows of a score block: kRows x kKeys scores (24 KB) stay close
constexpr i64 kTask = 256;  // rows of a task: preparing a tile is then some 3 percent of its products

struct Task {
  i64 row, head, first, count;  // queries [first, first + count) of the row
};

struct Sizes {
  i64 group, d, v;  // strides of widened keys and values
};

struct Work {
  const float* q;  // [rows][d of the model]
  float* out;      // [rows][v]
  float* scores;
  SoftmaxState softmax;
};

template <class T>
TS_INLINE void widen_head(const PagedArgs& a, i64 row, const void* cache, i64 page_stride, i64 width, i64 head,
                          i64 first, i64 count, float* rows, i64 stride) {
  const i32* pages = a.block_tables + row * a.block_table_stride;
  const i64 token = a.kv_heads * width;
  for (i64 done = 0; done < count;) {
    const i64 key = first + done, page = key / a.page_size, offset = key - page * a.page_size;
    const i64 end = min_of(done + a.page_size - offset, count);
    const T* from = static_cast<const T*>(cache) + pages[page] * page_stride + offset * token + head * width;
    for (; done < end; ++done, from += token) widen_row(from, width, rows + done * stride);
  }
}

TS_INLINE void load_tile(const PagedArgs& a, const Sizes& s, const Task& t, i64 first, i64 count, float* columns,
                         float* values) {
  float* rows = scratch_of<float>(Slot::key_rows, kKeys * s.d);
  const auto load = [&]<class T>(T) TS_LAMBDA {
    widen_head<T>(a, t.row, a.k_cache, a.k_page, a.d, t.head, first, count, rows, s.d);
    widen_head<T>(a, t.row, a.v_cache, a.v_page, a.v, t.head, first, count, values, s.v);
  };
  a.cache_dtype == DType::f32 ? load(float{}) : a.cache_dtype == DType::e4m3 ? load(u8{}) : load(u16{});
  transpose(rows, s.d, count, a.d, columns, kKeys);
}

// The tile's part of every row of the task. position: of the task's first query.
void attend_tile(const PagedArgs& a, const Sizes& s, const Task& t, const Work& w, i64 position, i64 first, i64 count,
                 const float* columns, const float* values) {
  const i64 all = t.count * s.group;
  for (i64 r = 0; r < all; r += kRows) {
    const i64 rows = min_of(kRows, all - r);
    const i64 seen = seen_by(a, position + (r + rows - 1) / s.group, first, count).end;
    if (seen <= seen_by(a, position + r / s.group, first, count).begin) continue;
    const i64 width = round_up(seen, kPanel);
    multiply<Format::f32>({w.q + r * a.d, a.d, operand_of(columns, kKeys), a.d, w.scores, kKeys, width}, rows);
    const SoftmaxState softmax{w.softmax.maximum + r, w.softmax.total + r, w.softmax.factor};
    for (i64 i = 0; i < rows; ++i)
      softmax_row(w.scores + i * kKeys, width, seen_by(a, position + (r + i) / s.group, first, count), a.soft_cap,
                  softmax, i);
    multiply<Format::f32>(
        {w.scores, kKeys, operand_of(values, s.v), seen, w.out + r * s.v, s.v, s.v, Start::from_out, softmax.factor},
        rows);
  }
}

void write_output(const PagedArgs& a, const Sizes& s, const Task& t, const Work& w) {
  for (i64 r = 0; r < t.count * s.group; ++r) {
    const i64 token = paged_first(a, t.row) + t.first + r / s.group, head = t.head * s.group + r % s.group;
    const vf norm = set1(finish_row(a, token, head, w.softmax.maximum[r], w.softmax.total[r]));
    void* to = at(a.out, a.dtype, (token * a.heads + head) * a.v);
    for (i64 j = 0; j < a.v; j += W) store_as(to, a.dtype, j, load(w.out + r * s.v + j) * norm, a.v - j);
  }
}

void load_queries(const PagedArgs& a, const Sizes& s, const Task& t, float* q) {
  const vf factor = set1(query_factor(a));
  for (i64 r = 0; r < t.count * s.group; ++r, q += a.d) {
    const i64 token = paged_first(a, t.row) + t.first + r / s.group;
    const void* from = at(a.q, a.dtype, token * a.q_stride + (t.head * s.group + r % s.group) * a.d);
    for (i64 j = 0; j < a.d; j += W)
      store_as(q, DType::f32, j, load_as_float(from, a.dtype, j, a.d - j) * factor, a.d - j);
  }
}

void attend_task(const PagedArgs& a, const Sizes& s, const Task& t) {
  const i64 rows = t.count * s.group;
  float* q = scratch_of<float>(Slot::query, rows * a.d);
  float* out = scratch_of<float>(Slot::output, rows * s.v);
  float* state = scratch_of<float>(Slot::row_state, 2 * rows + kRows);
  float* columns = scratch_of<float>(Slot::key_columns, s.d * kKeys);
  float* values = scratch_of<float>(Slot::values, kKeys * s.v);
  const Work work{q, out, scratch_of<float>(Slot::scores, kRows * kKeys), {state, state + rows, state + 2 * rows}};
  load_queries(a, s, t, q);
  for (i64 r = 0; r < rows; ++r) state[r] = kLowest, state[rows + r] = 0;
  for (i64 i = 0; i < rows * s.v; i += W) store(out + i, zero());
  const i64 position = a.seq_lens[t.row] - paged_queries(a, t.row) + t.first, end = position + t.count;
  for (i64 first = oldest_key(a, max_of(0, position)); first < end; first += kKeys) {
    const i64 count = min_of(kKeys, end - first);
    load_tile(a, s, t, first, count, columns, values);
    attend_tile(a, s, t, work, position, first, count, columns, values);
  }
  write_output(a, s, t, work);
}

}  // namespace

void attend_paged_many(Pool& pool, const PagedArgs& a) {
  const Sizes s{group_of(a), round_up(a.d, kPanel), round_up(a.v, kPanel)};
  const i64 step = max_of(1, kTask / s.group);
  const auto many = [&](i64 row) TS_LAMBDA { return paged_queries(a, row) > kFewQueries ? paged_queries(a, row) : 0; };
  i64 tasks = 0, pairs = 0;
  for (i64 row = 0; row < a.rows; ++row) {
    tasks += ceil_div(many(row), step) * a.kv_heads;
    pairs += many(row) * a.seq_lens[row] * a.heads;
  }
  Task* list = scratch_of<Task>(Slot::order, tasks);
  i64 index = 0;
  for (i64 row = 0; row < a.rows; ++row)  // long rows of keys first: the last queries of each row
    for (i64 first = (ceil_div(many(row), step) - 1) * step; first >= 0; first -= step)
      for (i64 h = 0; h < a.kv_heads; ++h) list[index++] = {row, h, first, min_of(step, many(row) - first)};
  parallel(pool, tasks, pairs * (a.d + a.v), [&](i64 task) { attend_task(a, s, list[task]); });
}

}  // namespace ts::TS_ISA
