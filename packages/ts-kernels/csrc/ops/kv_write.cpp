// Keys and values of new tokens, written into their slots of the paged caches.
#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

void write_token(const KvWriteArgs& a, const KvPart& part, i64 t) {
  const i64 page = a.slots[t] / a.page_size, offset = a.slots[t] - page * a.page_size;
  const void* from = at(part.x, a.dtype, t * part.stride);
  void* to = at(part.cache, a.cache_dtype, page * part.page_stride + offset * part.width);
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
