// What both forms of MLA attention share: reading paged keys, and the running softmax.
//
// Scores are kept in units of log2: the query is scaled by scale * log2(e) once, and 2^x replaces e^x.
#pragma once

#include "isa/e4m3.h"
#include "ops/ops.h"
#include "ops/product.h"

namespace ts::TS_ISA {

constexpr float kLowest = -1e30f;  // where a running maximum starts. Finite: kLowest - kLowest is 0 and not NaN
constexpr float kUnseen = -__builtin_huge_valf();  // the score of a key that must have no weight, whatever others have

// One row's keys in the paged cache.
struct PagedKeys {
  const void* cache;
  DType dtype;
  i64 page_size, width;
  const i32* pages;
};

TS_INLINE PagedKeys keys_of(const AttentionArgs& a, i64 row) {
  return {a.cache, a.cache_dtype, a.page_size, a.projection->latent + a.rope_dim,
          a.block_tables + row * a.block_table_stride};
}

TS_INLINE i64 first_query(const AttentionArgs& a, i64 row) { return a.cu_q ? a.cu_q[row] : row * a.q_len; }
TS_INLINE i64 queries_of(const AttentionArgs& a, i64 row) {
  return a.cu_q ? a.cu_q[row + 1] - a.cu_q[row] : (a.seq_lens[row] > 0 ? a.q_len : 0);
}

// What cached numbers are multiplied by for being widened as widen_row does.
TS_INLINE float unit_of(DType cache) { return cache == DType::e4m3 ? kE4m3Unit : 1.0f; }
TS_INLINE float unit_of(const AttentionArgs& a) { return unit_of(a.cache_dtype) * a.cache_scale; }

template <class T>
TS_INLINE void widen_row(const T* from, i64 width, float* to) {
  constexpr DType dtype = sizeof(T) == 4 ? DType::f32 : DType::bf16;
  i64 j = 0;
  for (; j + W <= width; j += W) store(to + j, load_as_float(from + j, dtype, 0, W));
  if (j < width) store_first(to + j, load_as_float(from + j, dtype, 0, width - j), width - j);
}

TS_INLINE void widen_row(const u8* from, i64 width, float* to) {
  i64 j = 0;
  for (; j + 2 * W <= width; j += 2 * W) {
    vf low, high;
    widen_e4m3(from + j, low, high);
    store(to + j, low);
    store(to + j + W, high);
  }
  for (; j < width; j += W) store_first(to + j, widen_e4m3_first(from + j, width - j), width - j);
}

// rows[i] = where key first + i lies, for i < count.
TS_INLINE void find_keys(const PagedKeys& keys, i64 first, i64 count, const char** rows) {
  const i64 bytes = keys.width * size_of(keys.dtype);
  for (i64 done = 0; done < count;) {
    const i64 key = first + done, page = key / keys.page_size, offset = key - page * keys.page_size;
    const i64 end = min_of(done + keys.page_size - offset, count);
    const char* from = static_cast<const char*>(keys.cache) + (keys.pages[page] * keys.page_size + offset) * bytes;
    for (; done < end; ++done, from += bytes) rows[done] = from;
  }
}

// One key as fp32, divided by its unit.
TS_INLINE void widen_key(const PagedKeys& keys, const char* from, float* to) {
  if (keys.dtype == DType::f32) return widen_row(reinterpret_cast<const float*>(from), keys.width, to);
  if (keys.dtype == DType::bf16) return widen_row(reinterpret_cast<const u16*>(from), keys.width, to);
  widen_row(reinterpret_cast<const u8*>(from), keys.width, to);
}

// columns[j][i] = rows[i][j] for i < count, j < dims, both rounded up to W: what lies beyond is read and written too.
TS_INLINE void transpose(const float* rows, i64 stride, i64 count, i64 dims, float* columns, i64 column_stride) {
  for (i64 i = 0; i < count; i += W)
    for (i64 j = 0; j < dims; j += W)
      transpose_block(rows + i * stride + j, stride, columns + j * column_stride + i, column_stride);
}

// The running maximum, sum and rescaling factor of `rows` softmax rows.
struct SoftmaxState {
  float* maximum;
  float* total;
  float* factor;
};

// Row r of scores has limit(r) keys. Turns them into 2^(score - maximum), zeroes the rest up to `columns`, updates the
// state; factor[r] is what the output so far has to be multiplied with.
template <class Limit>
TS_INLINE void softmax_step(float* scores, i64 stride, i64 rows, i64 columns, const SoftmaxState& s,
                            const Limit& limit) {
  for (i64 r = 0; r < rows; ++r) {
    const float* row = scores + r * stride;
    const i64 n = limit(r);
    vf best = set1(s.maximum[r]);
    for (i64 i = 0; i + W <= n; i += W) best = max(best, load(row + i));
    if (n > 0 && n % W) best = max(best, keep_first(load(row + n / W * W), n % W, best));
    const float maximum = hmax(best);
    s.factor[r] = s.maximum[r] - maximum;
    s.maximum[r] = maximum;
  }
  for (i64 r = 0; r < rows; r += W)
    store_as(s.factor, DType::f32, r, exp2(load_as_float(s.factor, DType::f32, r, rows - r)), rows - r);
  for (i64 r = 0; r < rows; ++r) {
    float* row = scores + r * stride;
    const i64 n = limit(r);
    const vf maximum = set1(s.maximum[r]);
    vf total = zero();
    i64 i = 0;
    for (; i + W <= n; i += W) {
      const vf p = exp2(load(row + i) - maximum);
      total = total + p;
      store(row + i, p);
    }
    if (i < n) {
      const vf p = keep_first(exp2(load(row + i) - maximum), n - i, zero());
      total = total + p;
      store(row + i, p);
      i += W;
    }
    for (; i < columns; i += W) store(row + i, zero());
    s.total[r] = s.total[r] * s.factor[r] + hsum(total);
  }
}

}  // namespace ts::TS_ISA
