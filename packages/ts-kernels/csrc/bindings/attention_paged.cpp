// Attention over separate paged caches of keys and values, and the writes that fill them.
#include <pybind11/stl.h>

#include <cmath>
#include <vector>

#include "bindings/checks.h"
#include "bindings/direct.h"

namespace ts {
namespace {

// Checks what the kernels will follow as addresses; gives the multiply-adds, at most.
i64 check_paged_rows(const PagedArgs& a, i64 pages, i64 tokens) {
  const char* name = a.cu_q ? "attention.prefill" : "attention.decode";
  if (a.cu_q) check_spans(name, a.cu_q, a.rows, tokens);
  i64 pairs = 0;
  for (i64 row = 0; row < a.rows; ++row) {
    const i64 length = a.seq_lens[row], queries = a.cu_q ? a.cu_q[row + 1] - a.cu_q[row] : a.step;
    check_length(name, length, 0, a.block_table_width * a.page_size);
    const i64 used = ceil_div(length, a.page_size);
    const i64 oldest = a.window > 0 ? max_of(0, max_of(0, length - queries) + 1 - a.window) : 0;
    u32 highest = 0;  // a negative page is a high one
    for (i64 i = oldest / a.page_size; i < used && queries > 0; ++i) {
      const u32 page = static_cast<u32>(a.block_tables[row * a.block_table_stride + i]);
      highest = page > highest ? page : highest;
    }
    if (used > 0 && queries > 0) check_page(name, row, highest, pages);
    pairs += queries * (length - oldest);
  }
  return pairs * a.heads * (a.d + a.v);
}

bool any_row(const PagedArgs& a, bool few) {
  for (i64 row = 0; row < a.rows; ++row)
    if ((a.cu_q ? a.cu_q[row + 1] - a.cu_q[row] <= 8 : true) == few) return true;
  return false;
}

// [pages][page_size][heads][width], each page one run of memory.
bool paged(const direct::View& cache) {
  return cache.rank() == 4 && cache.is_float() && cache.size(1) > 0 && cache.size(2) > 0 && cache.size(3) > 0 &&
         cache.stride(3) == 1 && cache.stride(2) == cache.size(3) && cache.stride(1) == cache.size(2) * cache.size(3);
}

bool paged_pair(const direct::View& k, const direct::View& v) {
  return paged(k) && paged(v) && v.is(k.dtype()) && v.size(0) == k.size(0) && v.size(1) == k.size(1) &&
         v.size(2) == k.size(2);
}

constexpr float kLargestScale = 1e20f;  // as ops/attention/options.py says

bool positive(float x) { return x > 0 && std::isfinite(x); }

py::object decode_direct(Engine& engine, py::handle q_, py::handle k_, py::handle v_, py::handle tables_,
                         py::handle lengths_, py::handle sinks_, float scale, std::optional<i64> window, float k_scale,
                         float v_scale) {
  direct::View q, k, v, tables, lengths, sinks;
  if (!direct::read({q_, k_, v_, tables_, lengths_}, q, k, v, tables, lengths) || lengths.rank() != 1)
    return direct::declined();
  const i64 rows = lengths.size(0), tokens = q.rank() == 3 ? q.size(0) : 0;
  const bool queries = q.heads() && q.is_float() && rows > 0 && tokens > 0 && tokens % rows == 0 && tokens / rows <= 8;
  const bool keys = queries && paged_pair(k, v) && k.size(3) == q.size(2) && q.size(1) % k.size(2) == 0;
  const bool places = tables.matrix() && tables.size(0) == rows && tables.is(dlpack::kInt32) && lengths.vector(rows) &&
                      lengths.is(dlpack::kInt32);
  if (!keys || !places || !(std::fabs(scale) <= kLargestScale) || window.value_or(0) < 0 || !positive(k_scale) ||
      !positive(v_scale))
    return direct::declined();
  const bool sunk = !sinks_.is_none();
  if (sunk && (!direct::View::read(sinks_, sinks) || !sinks.vector(q.size(1)) || !sinks.is(dlpack::kFloat32)))
    return direct::declined();
  const i64 heads = q.size(1), width = v.size(3);
  thread_local std::vector<float> lse;  // which nobody asked for
  lse.resize(static_cast<std::size_t>(tokens * heads));
  direct::Fresh out = direct::fresh({tokens, heads * width}, q.dtype());
  const PagedArgs args{q.data(),
                       q.stride(0),
                       rows,
                       nullptr,
                       tokens / rows,
                       q.code(),
                       k.data(),
                       v.data(),
                       k.code(),
                       k.stride(0),
                       v.stride(0),
                       k.size(1),
                       heads,
                       k.size(2),
                       q.size(2),
                       width,
                       tables.data<i32>(),
                       tables.stride(0),
                       tables.size(1),
                       lengths.data<i32>(),
                       sunk ? sinks.data<float>() : nullptr,
                       scale * k_scale,
                       0.0f,
                       v_scale,
                       window.value_or(0),
                       out.data,
                       lse.data()};
  engine.run<PagedArgs>(&KernelTable::attend_paged_few, args, check_paged_rows(args, k.size(0), tokens));
  return std::move(out.object);
}

py::object write_direct(Engine& engine, py::handle k_, py::handle v_, py::handle slots_, py::handle k_cache_,
                        py::handle v_cache_, float k_scale, float v_scale) {
  direct::View k, v, slots, k_cache, v_cache;
  if (!direct::read({k_, v_, slots_, k_cache_, v_cache_}, k, v, slots, k_cache, v_cache) || !k.heads() ||
      !k.is_float() || !v.heads() || !v.is(k.dtype()) || !paged_pair(k_cache, v_cache) || k_cache.overlaps() ||
      v_cache.overlaps() || !v_cache.apart_from(k_cache))
    return direct::declined();
  const i64 tokens = k.size(0);
  const auto fits = [](const direct::View& x, const direct::View& cache) {
    return x.size(1) == cache.size(2) && x.size(2) == cache.size(3);
  };
  if (!fits(k, k_cache) || !fits(v, v_cache) || v.size(0) != tokens || !slots.vector(tokens) ||
      !slots.is(dlpack::kInt64) || !positive(k_scale) || !positive(v_scale))
    return direct::declined();
  check_below("kv_cache.write_kv", "slot_mapping", slots.data<i64>(), tokens, k_cache.size(0) * k_cache.size(1));
  const auto part = [](const direct::View& x, const direct::View& cache, float scale) {
    return KvPart{x.data(), x.stride(0), x.size(1) * x.size(2), cache.data(), cache.stride(0), scale};
  };
  const KvWriteArgs args{
      tokens,   slots.data<i64>(), k_cache.size(1), part(k, k_cache, k_scale), part(v, v_cache, v_scale),
      k.code(), k_cache.code()};
  engine.run<KvWriteArgs>(&KernelTable::write_kv, args, tokens * (args.keys.width + args.values.width) * 2);
  return py::none();
}

}  // namespace

void bind_attention_paged(py::module_& m, Engine& engine) {
  m.def("direct_attend_few",
        [&engine](py::handle q, py::handle k_cache, py::handle v_cache, py::handle tables, py::handle lengths,
                  py::handle sinks, float scale, std::optional<i64> window, float k_scale, float v_scale) {
          return decode_direct(engine, q, k_cache, v_cache, tables, lengths, sinks, scale, window, k_scale, v_scale);
        });
  m.def("direct_write_kv",
        [&engine](py::handle k, py::handle v, py::handle slots, py::handle k_cache, py::handle v_cache, float k_scale,
                  float v_scale) { return write_direct(engine, k, v, slots, k_cache, v_cache, k_scale, v_scale); });
  m.def("attend_paged", [&engine](Address q, i64 q_stride, i64 tokens, i64 rows, Address cu_q, int dtype,
                                  Address k_cache, Address v_cache, int cache_dtype, i64 k_page, i64 v_page, i64 pages,
                                  i64 page_size, i64 heads, i64 kv_heads, i64 d, i64 v, Address block_tables,
                                  i64 block_table_stride, i64 block_table_width, Address seq_lens, Address sinks,
                                  float scale, float soft_cap, float v_scale, i64 window, Address out, Address lse) {
    require(page_size > 0 && kv_heads > 0 && heads % kv_heads == 0 && d > 0 && v > 0,
            "attention: sizes must be positive, and heads a multiple of kv_heads");
    const PagedArgs args{pointer(q),
                         q_stride,
                         rows,
                         pointer<const i32>(cu_q),
                         rows > 0 ? tokens / rows : 0,
                         dtype_of(dtype),
                         pointer(k_cache),
                         pointer(v_cache),
                         cache_dtype_of(cache_dtype),
                         k_page,
                         v_page,
                         page_size,
                         heads,
                         kv_heads,
                         d,
                         v,
                         pointer<const i32>(block_tables),
                         block_table_stride,
                         block_table_width,
                         pointer<const i32>(seq_lens),
                         pointer<const float>(sinks),
                         scale,
                         soft_cap,
                         v_scale,
                         window,
                         pointer(out),
                         pointer<float>(lse)};
    require(cu_q != 0 || (args.step * rows == tokens && args.step <= 8),
            "attention: decode takes 1 to 8 queries in every row");
    const i64 flops = check_paged_rows(args, pages, tokens);
    if (any_row(args, true)) engine.run<PagedArgs>(&KernelTable::attend_paged_few, args, flops);
    if (any_row(args, false)) engine.run<PagedArgs>(&KernelTable::attend_paged_many, args, flops);
  });
  m.def("write_kv", [&engine](Address k, i64 k_stride, i64 k_width, Address v, i64 v_stride, i64 v_width, i64 tokens,
                              int dtype, Address slots, Address k_cache, i64 k_page, float k_scale, Address v_cache,
                              i64 v_page, float v_scale, i64 pages, i64 page_size, int cache_dtype) {
    require(page_size > 0, "write_kv: page_size must be positive");
    check_below("kv_cache.write_kv", "slot_mapping", pointer<const i64>(slots), tokens, pages * page_size);
    engine.run<KvWriteArgs>(&KernelTable::write_kv,
                            {tokens,
                             pointer<const i64>(slots),
                             page_size,
                             {pointer(k), k_stride, k_width, pointer(k_cache), k_page, k_scale},
                             {pointer(v), v_stride, v_width, pointer(v_cache), v_page, v_scale},
                             dtype_of(dtype),
                             cache_dtype_of(cache_dtype)},
                            tokens * (k_width + v_width) * 2);
  });
}

}  // namespace ts
