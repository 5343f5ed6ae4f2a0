// Attention of few queries a row over paged keys and values: what counts is to read every key once, in order.
//
// A task is one split of one row's keys, at fixed places (flash decoding), for all heads: a page's memory is read from
// front to back, one step of keys ahead of its use, and each head's part serves all query heads that share it. Partial
// results are merged in order, so a row's result depends neither on the batch nor on the number of threads.
#include "isa/e4m3_table.h"
#include "ops/attention_paged.h"

namespace ts::TS_ISA {
namespace {

constexpr i64 kSplit = 256;  // keys of a task
constexpr i64 kStep = 32;    // keys at a time, or half as many where these and as many values do not fit kStepBytes
constexpr i64 kStepBytes = 256 * 1024;  // as much is on its way to the level-2 cache

struct Sizes {
  i64 group, d, v;  // widths rounded up to whole vectors
};

TS_INLINE Sizes sizes_of(const PagedArgs& a) { return {group_of(a), round_up(a.d, W), round_up(a.v, W)}; }

struct Row {
  i64 row, queries, position;  // position of the first query
  i64 first_split, splits;
  i64 state;  // offset of the partial results: of each split (maximum, total, then the output) of every query and head
};

struct Plan {
  Row* rows;
  i64 count, tasks, state_size, flops;
};

TS_INLINE i64 state_of(const PagedArgs& a, const Sizes& s, i64 queries) { return queries * a.heads * (s.v + 2); }

Plan make_plan(const PagedArgs& a, const Sizes& s) {
  Plan plan{scratch_of<Row>(Slot::order, a.rows), 0, 0, 0, 0};
  for (i64 row = 0; row < a.rows; ++row) {
    const i64 queries = paged_queries(a, row), length = a.seq_lens[row];
    if (queries == 0 || queries > kFewQueries) continue;
    Row& r = plan.rows[plan.count++];
    const i64 oldest = oldest_key(a, max_of(0, length - queries));
    r = {row, queries, length - queries, oldest / kSplit, 0, plan.state_size};
    r.splits = length > 0 ? ceil_div(length, kSplit) - r.first_split : 0;
    plan.tasks += r.splits;
    plan.state_size += r.splits * state_of(a, s, queries);
    plan.flops += queries * (length - oldest) * a.heads * (a.d + a.v);
  }
  return plan;
}

// Where the keys or values of a step lie: of all heads, a token a pointer.
template <class T>
TS_INLINE void find_tokens(const PagedArgs& a, const i32* pages, const void* cache, i64 page_stride, i64 width,
                           i64 first, i64 count, const T** tokens) {
  const i64 token = a.kv_heads * width;
  for (i64 done = 0; done < count;) {
    const i64 key = first + done, page = key / a.page_size, offset = key - page * a.page_size;
    const i64 end = min_of(done + a.page_size - offset, count);
    const T* from = static_cast<const T*>(cache) + pages[page] * page_stride + offset * token;
    for (; done < end; ++done, from += token) tokens[done] = from;
  }
  for (i64 i = count; i < kStep; ++i) tokens[i] = tokens[count - 1];  // computed with the others, then not looked at
}

template <class T>
struct Tokens {
  const T* keys[kStep];
  const T* values[kStep];
};

template <class T>
TS_INLINE void find_step(const PagedArgs& a, i64 row, i64 first, i64 count, Tokens<T>& t) {
  const i32* pages = a.block_tables + row * a.block_table_stride;
  find_tokens(a, pages, a.k_cache, a.k_page, a.d, first, count, t.keys);
  find_tokens(a, pages, a.v_cache, a.v_page, a.v, first, count, t.values);
}

// The keys or values of the step to come, of all heads, as they lie in memory. They are fetched in that order, a few
// lines at a time between other work: in one go they would stop the core until memory has answered, and head by head
// each would be in another page of memory.
template <class T>
struct Ahead {
  const T* const* tokens;
  i64 left, width;  // tokens; numbers of each
  const T *at, *end;
  i64 due = 0;  // numbers asked for and not yet fetched, less than a line

  TS_INLINE void fetch(Ahead& a, i64 numbers) {
    constexpr i64 line = 64 / static_cast<i64>(sizeof(T));
    for (a.due += numbers; a.due >= line; a.due -= line, a.at += line) {
      if (a.at >= a.end) {
        if (a.left == 0) return;
        a.at = *a.tokens++, a.end = a.at + a.width, --a.left;
      }
      __builtin_prefetch(a.at, 0, 2);
    }
  }
};

constexpr int kMixVectors = W == 16 ? 4 : 2;  // vectors of columns of an output block

// Keys and values are widened N vectors at a time. bf16 comes as columns of even number, then those of odd, which takes
// two operations instead of four: queries are brought into that order beforehand and outputs out of it at the end.
template <class T>
struct Widened {
  static constexpr int N = 2;
  static constexpr bool kPaired = false;
  TS_INLINE void load_block(const float* from, vf (&x)[2]) { x[0] = load(from), x[1] = load(from + W); }
  TS_INLINE void load_block(const u8* from, vf (&x)[2]) { widen_e4m3(from, x[0], x[1]); }
};

template <>
struct Widened<u16> {
  static constexpr int N = 2;
  static constexpr bool kPaired = true;
  TS_INLINE void load_block(const u16* from, vf (&x)[2]) {
    const vi words = load_words(reinterpret_cast<const u32*>(from));
    x[0] = bf16_low(words), x[1] = bf16_high(words);
  }
};

// What e4m3 becomes where more rows of queries than a block's meet it.
#if defined(TS_HAS_PAIRS)
using Decoded = u16;

constexpr E4m3Table kCodes = e4m3_table(8, true);
static_assert(kE4m3Unit == 256);
constexpr i64 kCodesAtOnce = 64;

TS_INLINE vi load_codes(const u8* from, i64 left) {
  return left >= kCodesAtOnce ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi8((__mmask64{1} << left) - 1, from);
}

template <>
struct Widened<u8> {
  static constexpr int N = 4;
  static constexpr bool kPaired = true;
  TS_INLINE void load_block(const u8* from, vf (&x)[4]) {
    vi pair[2];
    E4m3Decoder::decode_in_order(E4m3Decoder::make(kCodes), _mm512_loadu_si512(from), pair);
    x[0] = bf16_low(pair[0]), x[1] = bf16_high(pair[0]), x[2] = bf16_low(pair[1]), x[3] = bf16_high(pair[1]);
  }
};

TS_INLINE void decode_row(const u8* from, i64 width, u16* to) {
  const E4m3Decoder decoder = E4m3Decoder::make(kCodes);
  for (i64 j = 0; j < width; j += kCodesAtOnce) {
    vi pair[2];
    E4m3Decoder::decode_in_order(decoder, load_codes(from + j, width - j), pair);
    store_words(reinterpret_cast<u32*>(to + j), pair[0]);
    store_words(reinterpret_cast<u32*>(to + j + kCodesAtOnce / 2), pair[1]);
  }
}
#else
using Decoded = float;

TS_INLINE void decode_row(const u8* from, i64 width, float* to) {
  i64 j = 0;
  for (; j + 2 * W <= width; j += 2 * W) {
    vf low, high;
    widen_e4m3(from + j, low, high);
    store(to + j, low), store(to + j + W, high);
  }
  for (; j < width; j += W) store(to + j, widen_e4m3_first(from + j, width - j));
}
#endif

template <class T>
constexpr i64 kBlock = Widened<T>::N * W;

// Whole blocks of a row's columns: even and odd apart, and back in order.
template <class T>
TS_INLINE void split_pairs(float* row, i64 width) {
  float even_odd[2 * W];
  for (const float* end = row + width / kBlock<T> * kBlock<T>; row < end; row += 2 * W) {
    for (i64 i = 0; i < 2 * W; ++i) even_odd[i % 2 * W + i / 2] = row[i];
    std::memcpy(row, even_odd, sizeof even_odd);
  }
}

TS_INLINE void join_pairs(float* row, i64 width) {
  float in_order[2 * W];
  for (; width > 0; width -= 2 * W, row += 2 * W) {
    for (i64 i = 0; i < 2 * W; ++i) in_order[i] = row[i % 2 * W + i / 2];
    std::memcpy(row, in_order, sizeof in_order);
  }
}

TS_INLINE i64 paired_values(const PagedArgs& a) {
  const bool paired = a.cache_dtype == DType::bf16 || (a.cache_dtype == DType::e4m3 && Widened<u8>::kPaired);
  return paired ? a.v / (kMixVectors * W) * (kMixVectors * W) : 0;
}

TS_INLINE vf widen(const u8* from, i64 left) {
  if (left < 2 * W) return widen_e4m3_first(from, left);
  vf low, high;
  widen_e4m3(from, low, high);
  return low;
}
template <class T>
TS_INLINE vf widen(const T* from, i64 left) {
  return load_as_float(from, sizeof(T) == 4 ? DType::f32 : DType::bf16, 0, left);
}

// scores[q][k] of Q queries, scaled already, and K = W / Q keys: W sums over the width, then one vector of them.
template <int Q, class T>
TS_INLINE void dot_block(const float* q, i64 stride, float, const T* const* keys, i64 at, i64 width, float* scores) {
  constexpr int K = W / Q;
  vf sums[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) sums[i] = zero();
  constexpr int N = Widened<T>::N;
  i64 j = 0;
  for (; j + N * W <= width; j += N * W) {
    vf y[Q][N];
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) y[i][n] = load(q + i * stride + j + n * W);
#pragma GCC unroll 16
    for (int k = 0; k < K; ++k) {
      vf x[N];
      Widened<T>::load_block(keys[k] + at + j, x);
#pragma GCC unroll 4
      for (int i = 0; i < Q; ++i)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sums[i * K + k] = fma(y[i][n], x[n], sums[i * K + k]);
    }
  }
  for (; j < width; j += W) {
#pragma GCC unroll 16
    for (int k = 0; k < K; ++k) {
      const vf x = widen(keys[k] + at + j, width - j);
#pragma GCC unroll 4
      for (int i = 0; i < Q; ++i) sums[i * K + k] = fma(load(q + i * stride + j), x, sums[i * K + k]);
    }
  }
  float lanes[W];
  store(lanes, sums_of(sums));
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i) std::memcpy(scores + i * kStep, lanes + i * K, K * sizeof(float));
}

#if defined(TS_HAS_PAIRS)
// The same of bf16 queries, which are scaled in their sums: an operation for what takes two, and nothing to widen.
template <int Q>
TS_INLINE void dot_block(const u16* q, i64 stride, float factor, const u16* const* keys, i64 at, i64 width,
                         float* scores) {
  constexpr int K = W / Q;
  vf sums[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) sums[i] = zero();
  const auto add = [&](i64 j, auto load_key) TS_LAMBDA {
    vi y[Q];
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i) y[i] = load_pairs(q + i * stride + j);
#pragma GCC unroll 16
    for (int k = 0; k < K; ++k) {
      const vi x = load_key(keys[k] + at + j);
#pragma GCC unroll 4
      for (int i = 0; i < Q; ++i) sums[i * K + k] = dot_pairs(x, y[i], sums[i * K + k]);
    }
  };
  i64 j = 0;
  for (; j + 2 * W <= width; j += 2 * W) add(j, [](const u16* from) TS_LAMBDA { return load_pairs(from); });
  if (j < width) add(j, [&](const u16* from) TS_LAMBDA { return load_pairs_first(from, width - j); });
  float lanes[W];
  store(lanes, sums_of(sums) * set1(factor));
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i) std::memcpy(scores + i * kStep, lanes + i * K, K * sizeof(float));
}

// The same of e4m3 keys, which become bf16.
template <int Q>
TS_INLINE void dot_block(const u16* q, i64 stride, float factor, const u8* const* keys, i64 at, i64 width,
                         float* scores) {
  constexpr int K = W / Q;
  const E4m3Decoder decoder = E4m3Decoder::make(kCodes);
  vf sums[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) sums[i] = zero();
  for (i64 j = 0; j < width; j += kCodesAtOnce) {
    vi y[Q][2];
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i)
      y[i][0] = load_pairs(q + i * stride + j), y[i][1] = load_pairs(q + i * stride + j + kCodesAtOnce / 2);
#pragma GCC unroll 16
    for (int k = 0; k < K; ++k) {
      vi x[2];
      E4m3Decoder::decode_in_order(decoder, load_codes(keys[k] + at + j, width - j), x);
#pragma GCC unroll 4
      for (int i = 0; i < Q; ++i) sums[i * K + k] = dot_pairs(x[1], y[i][1], dot_pairs(x[0], y[i][0], sums[i * K + k]));
    }
  }
  float lanes[W];
  store(lanes, sums_of(sums) * set1(factor));
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i) std::memcpy(scores + i * kStep, lanes + i * K, K * sizeof(float));
}
#endif

template <int Q, class X, class T, class S>
TS_INLINE void dots(const X* q, i64 stride, float factor, const T* const* keys, Ahead<S>* next, i64 at, i64 width,
                    i64 count, float* scores) {
  constexpr int K = W / Q;
  for (i64 k = 0; k < count; k += K) {
    if (next) Ahead<S>::fetch(*next, K * width);
    dot_block<Q>(q, stride, factor, keys + k, at, width, scores + k);
  }
}

// out[q] = out[q] * factor[q] + sum of p[q][k] * value k, in V vectors of columns; V is a multiple of N or 1.
template <int Q, int V, class T, class S>
TS_INLINE void mix_block(const float* p, const float* factor, const T* const* values, Ahead<S>* next, i64 at, i64 left,
                         i64 count, float* out, i64 stride) {
  vf sums[Q][V];
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[i][v] = load(out + i * stride + v * W) * set1(factor[i]);
  for (i64 k = 0; k < count; ++k) {
    if (next) Ahead<S>::fetch(*next, min_of(left, V * W));
    vf x[V];
    if constexpr (V == 1) {
      x[0] = widen(values[k] + at, left);
    } else {
      constexpr int N = Widened<T>::N;
#pragma GCC unroll 4
      for (int v = 0; v < V; v += N) {
        vf block[N];
        Widened<T>::load_block(values[k] + at + v * W, block);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) x[v + n] = block[n];
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i) {
      const vf weight = set1(p[i * kStep + k]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[i][v] = fma(weight, x[v], sums[i][v]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(out + i * stride + v * W, sums[i][v]);
}

template <int Q, class T, class S>
TS_INLINE void mix(const float* p, const float* factor, const T* const* values, Ahead<S>* next, i64 at, i64 width,
                   i64 count, float* out, i64 stride) {
  constexpr int V = kMixVectors;
  i64 j = 0;
  for (; j + V * W <= width; j += V * W)
    mix_block<Q, V>(p, factor, values, next, at + j, width - j, count, out + j, stride);
  for (; j < width; j += W) mix_block<Q, 1>(p, factor, values, next, at + j, width - j, count, out + j, stride);
}

constexpr i64 kBlockRows = 4;

// body(first row, rows as a constant): blocks of 4, then 2 and 1.
template <class Body>
TS_INLINE void by_blocks(i64 rows, const Body& body) {
  i64 r = 0;
  for (; r + 4 <= rows; r += 4) body(r, std::integral_constant<int, 4>{});
  if (r + 2 <= rows) body(r, std::integral_constant<int, 2>{}), r += 2;
  if (r < rows) body(r, std::integral_constant<int, 1>{});
}

// One split's queries and results: rows ordered by head of the cache, query, head of the group.
template <class X>
struct Work {
  const X* q;
  i64 q_stride;
  float q_factor;  // what is left of their scale
  float* scores;
  float* out;
  SoftmaxState softmax;
};

// body(tokens, where in each the head's numbers are): as they lie, or decoded to T.
template <class T, class S, class Body>
TS_INLINE void in_type(const S* const* tokens, i64 count, i64 at, i64 width, const Body& body) {
  if constexpr (std::is_same_v<T, S>) {
    body(tokens, at);
  } else {
    const i64 stride = round_up(width, 64);  // which decode_row fills
    T* decoded = scratch_of<T>(Slot::keys, kStep * stride);
    const T* rows[kStep];
    for (i64 k = 0; k < count; ++k) decode_row(tokens[k] + at, width, decoded + k * stride);
    for (i64 k = 0; k < kStep; ++k) rows[k] = decoded + min_of(k, count - 1) * stride;
    body(rows, 0);
  }
}

template <class X, class T, class S>
TS_INLINE void attend_head(const PagedArgs& a, const Sizes& s, const Row& row, i64 head, i64 first, i64 count,
                           const Tokens<S>& t, Ahead<S>* keys, Ahead<S>* values, const Work<X>& w) {
  const i64 rows = row.queries * s.group, base = head * rows;
  const auto score = [&](const T* const* tokens, i64 at) TS_LAMBDA {
    by_blocks(rows, [&](i64 r, auto many) TS_LAMBDA {
      dots<many.value>(w.q + (base + r) * w.q_stride, w.q_stride, w.q_factor, tokens, r == 0 ? keys : nullptr, at, a.d,
                       count, w.scores + r * kStep);
    });
  };
  const auto sum = [&](const T* const* tokens, i64 at) TS_LAMBDA {
    by_blocks(rows, [&](i64 r, auto many) TS_LAMBDA {
      mix<many.value>(w.scores + r * kStep, w.softmax.factor + base + r, tokens, r == 0 ? values : nullptr, at, a.v,
                      count, w.out + (base + r) * s.v, s.v);
    });
  };
  in_type<T>(t.keys, count, head * a.d, a.d, score);
  for (i64 r = 0; r < rows; ++r) {
    const Seen seen = seen_by(a, row.position + r / s.group, first, count);
    softmax_row(w.scores + r * kStep, kStep, seen, a.soft_cap, w.softmax, base + r);
  }
  in_type<T>(t.values, count, head * a.v, a.v, sum);
}

template <class T, class S, class X>
void attend_keys(const PagedArgs& a, const Sizes& s, const Row& row, i64 first, i64 end, const Work<X>& w) {
  const i64 bytes = a.kv_heads * (a.d + a.v) * static_cast<i64>(sizeof(S));
  const i64 step = bytes * kStep <= kStepBytes ? kStep : kStep / 2;
  Tokens<S> now, next;
  find_step(a, row.row, first, min_of(step, end - first), next);
  for (; first < end; first += step) {
    now = next;
    const i64 count = min_of(step, end - first), ahead = max_of(0, min_of(step, end - first - step));
    if (ahead > 0) find_step(a, row.row, first + step, ahead, next);
    Ahead<S> keys{next.keys, ahead, a.kv_heads * a.d, nullptr, nullptr};
    Ahead<S> values{next.values, ahead, a.kv_heads * a.v, nullptr, nullptr};
    for (i64 head = 0; head < a.kv_heads; ++head)
      attend_head<X, T>(a, s, row, head, first, count, now, &keys, &values, w);
  }
}

// Numbers of a bf16 query that meet a key at once.
template <class T>
constexpr i64 kTogether = sizeof(T) == 1 ? 64 : 2 * W;

// The row's queries, scaled, in the order of Work.
template <class T>
TS_INLINE void load_queries(const PagedArgs& a, const Sizes& s, const Row& row, float* q) {
  const float factor = query_factor(a);
  for (i64 head = 0; head < a.kv_heads; ++head)
    for (i64 i = 0; i < row.queries; ++i)
      for (i64 g = 0; g < s.group; ++g, q += s.d) {
        const i64 from = (paged_first(a, row.row) + i) * a.q_stride + (head * s.group + g) * a.d;
        scale_query(at(a.q, a.dtype, from), a.dtype, a.d, s.d, factor, q);
        if (Widened<T>::kPaired) split_pairs<T>(q, a.d);
      }
}

#if defined(TS_HAS_PAIRS)
// As they are, but for zeros up to whole vectors.
template <class T>
TS_INLINE void load_queries(const PagedArgs& a, const Sizes& s, const Row& row, u16* q) {
  const i64 stride = round_up(a.d, kTogether<T>);
  for (i64 head = 0; head < a.kv_heads; ++head)
    for (i64 i = 0; i < row.queries; ++i)
      for (i64 g = 0; g < s.group; ++g, q += stride) {
        const i64 from = (paged_first(a, row.row) + i) * a.q_stride + (head * s.group + g) * a.d;
        std::memcpy(q, static_cast<const u16*>(a.q) + from, static_cast<std::size_t>(a.d) * 2);
        std::memset(q + a.d, 0, static_cast<std::size_t>(stride - a.d) * 2);
      }
}
#endif

// Queries become X, and T is what meets them of a cache of S.
template <class X, class T, class S>
void attend_split_of(const PagedArgs& a, const Sizes& s, const Row& row, i64 split, float* state) {
  const i64 rows = row.queries * a.heads;
  const bool scaled = sizeof(X) == 4;
  state += row.state + split * state_of(a, s, row.queries);
  const i64 stride = scaled ? s.d : round_up(a.d, kTogether<T>);
  X* q = scratch_of<X>(Slot::query, rows * stride);
  float* scores = scratch_of<float>(Slot::scores, row.queries * s.group * kStep);
  const Work<X> work{q,      stride,           scaled ? 1.0f : query_factor(a),
                     scores, state + 2 * rows, {state, state + rows, scratch_of<float>(Slot::row_state, rows)}};
  load_queries<T>(a, s, row, q);
  for (i64 r = 0; r < rows; ++r) work.softmax.maximum[r] = kLowest, work.softmax.total[r] = 0;
  for (i64 i = 0; i < rows * s.v; i += W) store(work.out + i, zero());
  const i64 first = (row.first_split + split) * kSplit, end = min_of(first + kSplit, row.position + row.queries);
  const i64 start = max_of(first, oldest_key(a, max_of(0, row.position)));
  attend_keys<T, S>(a, s, row, start, end, work);
}

template <class X>
void attend_split_by(const PagedArgs& a, const Sizes& s, const Row& row, i64 split, float* state) {
  if (a.cache_dtype == DType::bf16) return attend_split_of<X, u16, u16>(a, s, row, split, state);
  const bool whole = a.d % kBlock<u8> == 0 && a.v % kBlock<u8> == 0;  // what is left of a block is dear to decode
  if (!whole || row.queries * s.group > kBlockRows) return attend_split_of<X, Decoded, u8>(a, s, row, split, state);
  attend_split_of<X, u8, u8>(a, s, row, split, state);
}

void attend_split(const PagedArgs& a, const Sizes& s, const Row& row, i64 split, float* state) {
  if (a.cache_dtype == DType::f32) return attend_split_of<float, float, float>(a, s, row, split, state);
#if defined(TS_HAS_PAIRS)
  if (a.dtype == DType::bf16) return attend_split_by<u16>(a, s, row, split, state);
#endif
  attend_split_by<float>(a, s, row, split, state);
}

TS_INLINE void write(const float* from, i64 width, void* to, DType dtype) {
  for (i64 j = 0; j < width; j += W) store_as(to, dtype, j, load(from + j), width - j);
}

// The splits' sum of one query and head, normalised.
void merge_head(const PagedArgs& a, const Sizes& s, const Row& row, i64 query, i64 head, const float* state) {
  const i64 rows = row.queries * a.heads, step = state_of(a, s, row.queries);
  const i64 r = (head / s.group * row.queries + query) * s.group + head % s.group;
  const i64 token = paged_first(a, row.row) + query;
  float maximum = kLowest, total = 0;
  for (i64 i = 0; i < row.splits; ++i) maximum = state[i * step + r] > maximum ? state[i * step + r] : maximum;
  for (i64 i = 0; i < row.splits; ++i)
    total += __builtin_exp2f(state[i * step + r] - maximum) * state[i * step + rows + r];
  const float norm = finish_row(a, token, head, maximum, total);
  float* merged = scratch_of<float>(Slot::merged, s.v);
  for (i64 j = 0; j < s.v; j += W) {
    vf sum = zero();
    for (i64 i = 0; i < row.splits; ++i) {
      const float weight = norm * __builtin_exp2f(state[i * step + r] - maximum);
      sum = fma(set1(weight), load(state + i * step + 2 * rows + r * s.v + j), sum);
    }
    store(merged + j, sum);
  }
  join_pairs(merged, paired_values(a));
  write(merged, a.v, at(a.out, a.dtype, (token * a.heads + head) * a.v), a.dtype);
}

}  // namespace

void attend_paged_few(Pool& pool, const PagedArgs& a) {
  const Sizes s = sizes_of(a);
  const Plan plan = make_plan(a, s);
  float* state = scratch_of<float>(Slot::split_state, plan.state_size);
  i64* tasks = scratch_of<i64>(Slot::candidates, 2 * plan.tasks);
  for (i64 r = 0, task = 0; r < plan.count; ++r)
    for (i64 i = 0; i < plan.rows[r].splits; ++i, ++task) tasks[2 * task] = r, tasks[2 * task + 1] = i;
  parallel(pool, plan.tasks, plan.flops,
           [&](i64 task) { attend_split(a, s, plan.rows[tasks[2 * task]], tasks[2 * task + 1], state); });
  parallel(pool, plan.count * a.heads, plan.state_size * 2, [&](i64 task) {
    const Row& row = plan.rows[task / a.heads];
    for (i64 query = 0; query < row.queries; ++query) merge_head(a, s, row, query, task % a.heads, state + row.state);
  });
}

}  // namespace ts::TS_ISA
