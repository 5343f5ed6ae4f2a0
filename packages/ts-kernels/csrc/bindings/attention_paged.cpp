// Attention over separate paged caches of keys and values, and the writes that fill them.
#include "bindings/checks.h"

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

}  // namespace

void bind_attention_paged(py::module_& m, Engine& engine) {
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
