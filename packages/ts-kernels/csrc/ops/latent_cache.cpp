// Normed latent and rotated key part, written into the paged cache; and copies of pages.
#include <cmath>
#include <cstring>

#include "ops/ops.h"
#include "ops/rope.h"

namespace ts::TS_ISA {
namespace {

// The token's entry as `row`, in a dtype that vectors store.
void make_entry(const LatentArgs& a, i64 t, void* row, DType dtype) {
  const void* x = at(a.kv_a, a.dtype, t * a.kv_stride);
  vf squares = zero();
  for (i64 i = 0; i < a.latent; i += W) {
    const vf v = load_as_float(x, a.dtype, i, a.latent - i);
    squares = fma(v, v, squares);
  }
  const vf factor = set1(1.0f / std::sqrt(hsum(squares) / static_cast<float>(a.latent) + a.eps));
  for (i64 i = 0; i < a.latent; i += W) {
    const i64 n = a.latent - i;
    const vf v = load_as_float(x, a.dtype, i, n) * factor * load_as_float(a.norm_weight, a.norm_dtype, i, n);
    store_as(row, dtype, i, v, n);
  }
  rotate_pairs(at(x, a.dtype, a.latent), a.dtype, a.rope_dim, a.cos_sin + a.positions[t] * a.rope_dim,
               at(row, dtype, a.latent), dtype);
}

void write_token(const LatentArgs& a, i64 t) {
  if (a.slots[t] < 0) return;
  const i64 width = a.latent + a.rope_dim;
  void* row = at(a.cache, a.cache_dtype, a.slots[t] * width);
  if (a.cache_dtype != DType::e4m3) return make_entry(a, t, row, a.cache_dtype);
  float* entry = scratch_of<float>(Slot::rows_between, width);
  make_entry(a, t, entry, DType::f32);
  for (i64 i = 0; i < width; ++i) static_cast<u8*>(row)[i] = float_to_e4m3(entry[i] / a.cache_scale);
}

}  // namespace

void write_latent(Pool& pool, const LatentArgs& a) {
  constexpr i64 kTokens = 32;
  parallel(pool, ceil_div(a.tokens, kTokens), a.tokens * (a.latent + a.rope_dim) * 16, [&](i64 task) {
    for (i64 t = task * kTokens; t < min_of((task + 1) * kTokens, a.tokens); ++t) write_token(a, t);
  });
}

void copy_pages(Pool& pool, const CopyArgs& a) {
  parallel(pool, a.count, a.count * a.bytes, [&](i64 i) {
    std::memcpy(static_cast<char*>(a.to) + a.to_pages[i] * a.bytes,
                static_cast<const char*>(a.from) + a.from_pages[i] * a.bytes, static_cast<std::size_t>(a.bytes));
  });
}

}  // namespace ts::TS_ISA
