// Keys and values of new tokens, written into their slots of the paged caches.
#include "isa/e4m3.h"
#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

void write_e4m3(const void* from, DType dtype, const KvPart& part, u8* to) {
  constexpr i64 kNumbers = 64;
  float numbers[kNumbers];
  for (i64 first = 0; first < part.width; first += kNumbers) {
    const i64 count = min_of(kNumbers, part.width - first);
    for (i64 i = 0; i < count; i += W)
      store(numbers + i, load_as_float(from, dtype, first + i, count - i) / set1(part.scale));
    narrow_e4m3(numbers, count, to + first);
  }
}

void write_token(const KvWriteArgs& a, const KvPart& part, i64 t) {
  const i64 page = a.slots[t] / a.page_size, offset = a.slots[t] - page * a.page_size;
  const void* from = at(part.x, a.dtype, t * part.stride);
  void* to = at(part.cache, a.cache_dtype, page * part.page_stride + offset * part.width);
  if (a.cache_dtype == DType::e4m3) return write_e4m3(from, a.dtype, part, static_cast<u8*>(to));
  for (i64 i = 0; i < part.width; i += W) {
    const i64 n = part.width - i;
    store_as(to, a.cache_dtype, i, load_as_float(from, a.dtype, i, n) / set1(part.scale), n);
  }
}

}  // namespace

void write_kv(Pool& pool, const KvWriteArgs& a) {
  constexpr i64 kTokens = 32;
  parallel(pool, ceil_div(a.tokens, kTokens), a.tokens * (a.keys.width + a.values.width) * 2, [&](i64 task) {
    for (i64 t = task * kTokens; t < min_of((task + 1) * kTokens, a.tokens); ++t) {
      if (a.slots[t] < 0) continue;
      write_token(a, a.keys, t);
      write_token(a, a.values, t);
    }
  });
}

}  // namespace ts::TS_ISA
