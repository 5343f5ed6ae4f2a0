// MLA attention over the paged latent cache.
#include "bindings/checks.h"
#include "bindings/direct.h"

namespace ts {
namespace {

constexpr i64 kMostQueries = 8;  // of a row that decodes

// The rows of one head, which make keys of a latent.
DenseSource keys_of(const KvProjection& kv, const void* head, DType dtype, i64 stride) {
  return {head, 1, stride, dtype, kv.latent, kv.nope};
}

// Those that make values.
DenseSource values_of(const KvProjection& kv, const void* head, DType dtype, i64 stride) {
  return {at(head, dtype, kv.nope * stride), stride, 1, dtype, kv.v, kv.latent};
}

// Memory for all heads, which `put_heads` fills.
KvProjection room_for_heads(int dtype_code, i64 heads, i64 nope, i64 v, i64 latent) {
  require(heads > 0 && nope > 0 && v > 0 && latent > 0, "KvB: heads, nope, v and latent must be positive");
  const DType dtype = dtype_of(dtype_code);
  KvProjection kv{
      heads, nope, v, latent, {}, {}, Buffer::for_weights(static_cast<std::size_t>(heads * nope * latent * 4)), {}};
  for (i64 h = 0; h < heads; ++h) {
    kv.query_to_latent.push_back(PackedWeight::room(keys_of(kv, nullptr, dtype, latent), latent));
    kv.latent_to_value.push_back(PackedWeight::room(values_of(kv, nullptr, dtype, latent), v));
  }
  return kv;
}

// Packed by the calling thread, as others bring more heads.
void put_heads(KvProjection& kv, Address weight, i64 stride, int dtype_code, i64 first, i64 heads) {
  const DType dtype = dtype_of(dtype_code);
  require(stride >= kv.latent, "KvB: weight_stride must be at least latent");
  require(first >= 0 && heads > 0 && first + heads <= kv.heads, "KvB: there must be heads for these rows");
  require(kv.query_to_latent[0].view().format == (dtype == DType::f32 ? Format::f32 : Format::bf16),
          "KvB: all heads must be of one type");
  py::gil_scoped_release release;
  float* up_key = kv.up_key.as<float>() + first * kv.nope * kv.latent;
  for (i64 h = 0; h < heads; ++h) {
    const void* head = at(pointer<const void>(weight), dtype, h * (kv.nope + kv.v) * stride);
    const std::size_t to = static_cast<std::size_t>(first + h);
    kv.query_to_latent[to].fill(nullptr, keys_of(kv, head, dtype, stride), 0);
    kv.latent_to_value[to].fill(nullptr, values_of(kv, head, dtype, stride), 0);
    for (i64 i = 0; i < kv.nope; ++i)
      for (i64 j = 0; j < kv.latent; ++j) *up_key++ = load_scalar(head, dtype, i * stride + j);
  }
}

i64 bytes_of(const KvProjection& kv) {
  i64 total = static_cast<i64>(kv.up_key.bytes());
  for (const PackedWeight& w : kv.query_to_latent) total += w.nbytes();
  for (const PackedWeight& w : kv.latent_to_value) total += w.nbytes();
  return total;
}

struct Work {
  i64 pairs, keys, queries;
};

// Checks what the kernels will follow as addresses; about 0.3 us for 8K keys in pages of 16.
Work check_rows(const AttentionArgs& a, i64 pages) {
  require(a.page_size > 0, "attention: page_size must be positive");
  const char* name = a.q_rope ? "mla.decode_absorbed" : a.cu_q ? "mla.prefill" : "mla.decode";
  Work work{0, 0, 0};
  for (i64 row = 0; row < a.rows; ++row) {
    const i64 length = a.seq_lens[row], queries = a.cu_q ? a.cu_q[row + 1] - a.cu_q[row] : length > 0 ? a.q_len : 0;
    const i64 used = ceil_div(length, a.page_size);
    if (queries < 0) refuse(name, "cu_q", "without a fall", "a fall at row " + std::to_string(row));
    check_length(name, length, queries, a.block_table_width * a.page_size);
    u32 highest = 0;  // a negative page is a high one
    for (i64 i = 0; i < used; ++i) {
      const u32 page = static_cast<u32>(a.block_tables[row * a.block_table_stride + i]);
      highest = page > highest ? page : highest;
    }
    if (used > 0) check_page(name, row, highest, pages);
    work.pairs += queries * length;
    work.keys += queries > 0 ? length : 0;
    work.queries += queries;
  }
  return work;
}

// The plain form pays latent * (nope + v) a key to make each pair cheaper.
bool plain_is_cheaper(const AttentionArgs& a, const Work& work) {
  const KvProjection& kv = *a.projection;
  const i64 absorbed = work.pairs * (2 * kv.latent + a.rope_dim);
  return work.pairs * (kv.nope + a.rope_dim + kv.v) + work.keys * kv.latent * (kv.nope + kv.v) < absorbed;
}

void attend(Engine& engine, const AttentionArgs& a, i64 pages) {
  const Work work = check_rows(a, pages);
  const KvProjection& kv = *a.projection;
  const i64 flops = (work.pairs + work.queries * kv.nope) * kv.heads * 2 * kv.latent;
  if (a.cu_q && plain_is_cheaper(a, work)) {
    engine.run<AttentionArgs>(&KernelTable::attend_plain, a, flops);
  } else {
    engine.run<AttentionArgs>(&KernelTable::attend_absorbed, a, flops);
  }
}

// Reads the tensors that both forms have in common; false where the kernels cannot take one as it is.
bool read_common(const KvProjection& kv, direct::View (&views)[4], std::initializer_list<py::handle> objects) {
  auto& [q, cache, tables, lengths] = views;
  if (!direct::read(objects, q, cache, tables, lengths)) return false;
  return q.rank() == 3 && q.is_float() && q.size(1) == kv.heads && q.stride(2) == 1 && q.stride(1) == q.size(2) &&
         cache.dense3() && cache.size(1) > 0 && cache.is_float() && q.size(2) > kv.nope &&
         cache.size(2) - kv.latent == q.size(2) - kv.nope && tables.matrix() && tables.is(dlpack::kInt32) &&
         lengths.vector(tables.size(0)) && lengths.is(dlpack::kInt32);
}

py::object attend_direct(Engine& engine, const KvProjection& kv, direct::View (&views)[4], const i32* cu_q, float scale,
                         i64 q_len = 1) {
  const auto& [q, cache, tables, lengths] = views;
  direct::Fresh out = direct::fresh({q.size(0), kv.heads * kv.v}, q.dtype());
  attend(engine,
         {&kv, q.data(), q.stride(0), lengths.size(0), cu_q, q.code(), cache.data(), cache.code(), cache.size(1),
          q.size(2) - kv.nope, tables.data<i32>(), tables.stride(0), tables.size(1), lengths.data<i32>(), scale,
          out.data, q_len},
         cache.size(0));
  return std::move(out.object);
}

// Queries that the caller has absorbed: a projection that is never applied gives the sizes.
KvProjection sizes_of(i64 heads, i64 latent) { return {heads, 0, 0, latent, {}, {}, Buffer(0), {}}; }

// [tokens][heads][some width], rows of heads side by side.
bool heads_of(const direct::View& x, i64 tokens, i64 heads) {
  return x.rank() == 3 && x.size(0) == tokens && x.size(1) == heads && x.size(2) > 0 && x.stride(2) == 1 &&
         x.stride(1) == x.size(2);
}

py::object absorbed_direct(Engine& engine, py::handle q_latent, py::handle q_rope, py::handle cache_,
                           py::handle tables_, py::handle lengths_, float scale, i64 q_len) {
  direct::View latent, rope, cache, tables, lengths;
  if (!direct::read({q_latent, q_rope, cache_, tables_, lengths_}, latent, rope, cache, tables, lengths) ||
      latent.rank() != 3 || lengths.rank() != 1 || q_len < 1 || q_len > kMostQueries)
    return direct::declined();
  const i64 rows = lengths.size(0), tokens = rows * q_len, heads = latent.size(1);
  const bool queries = tokens > 0 && heads > 0 && heads_of(latent, tokens, heads) && heads_of(rope, tokens, heads) &&
                       latent.is_float() && rope.is(latent.dtype());
  const bool keys =
      cache.dense3() && cache.is_float() && cache.size(1) > 0 && cache.size(2) == latent.size(2) + rope.size(2);
  const bool places = tables.matrix() && tables.size(0) == rows && tables.is(dlpack::kInt32) && lengths.vector(rows) &&
                      lengths.is(dlpack::kInt32);
  if (!queries || !keys || !places) return direct::declined();
  const KvProjection sizes = sizes_of(latent.size(1), latent.size(2));
  direct::Fresh out = direct::fresh({latent.size(0), latent.size(1), latent.size(2)}, latent.dtype());
  attend(engine,
         {&sizes,
          latent.data(),
          latent.stride(0),
          lengths.size(0),
          nullptr,
          latent.code(),
          cache.data(),
          cache.code(),
          cache.size(1),
          rope.size(2),
          tables.data<i32>(),
          tables.stride(0),
          tables.size(1),
          lengths.data<i32>(),
          scale,
          out.data,
          q_len,
          1.0f,
          nullptr,
          rope.data(),
          rope.stride(0)},
         cache.size(0));
  return std::move(out.object);
}

}  // namespace

void bind_absorbed(py::module_& m, Engine& engine) {
  m.def("direct_decode_absorbed", [&engine](py::handle q_latent, py::handle q_rope, py::handle cache, py::handle tables,
                                            py::handle lengths, float scale, i64 q_len) {
    return absorbed_direct(engine, q_latent, q_rope, cache, tables, lengths, scale, q_len);
  });
  m.def("decode_absorbed", [&engine](Address q_latent, i64 q_stride, Address q_rope, i64 q_rope_stride, i64 batch,
                                     i64 heads, i64 latent, i64 rope_dim, int dtype, Address cache, int cache_dtype,
                                     i64 pages, i64 page_size, Address block_tables, i64 block_table_stride,
                                     i64 block_table_width, Address seq_lens, float scale, Address out, i64 q_len,
                                     float cache_scale, Address lse) {
    require(heads > 0 && latent > 0 && rope_dim > 0, "decode_absorbed: heads, latent and rope_dim must be positive");
    if (batch == 0) return;  // and no address is given
    require(q_rope != 0, "decode_absorbed: q_rope must be given");
    const KvProjection sizes = sizes_of(heads, latent);
    attend(engine,
           {&sizes,
            pointer(q_latent),
            q_stride,
            batch,
            nullptr,
            dtype_of(dtype),
            pointer(cache),
            cache_dtype_of(cache_dtype),
            page_size,
            rope_dim,
            pointer<const i32>(block_tables),
            block_table_stride,
            block_table_width,
            pointer<const i32>(seq_lens),
            scale,
            pointer(out),
            q_len,
            cache_scale,
            pointer<float>(lse),
            pointer<const void>(q_rope),
            q_rope_stride},
           pages);
  });
}

void bind_attention(py::module_& m, Engine& engine) {
  bind_absorbed(m, engine);
  py::class_<KvProjection>(m, "KvB")
      .def(py::init(&room_for_heads))
      .def("put", &put_heads)
      .def_property_readonly("nbytes", &bytes_of)
      .def("decode",
           [&engine](const KvProjection& kv, Address q, i64 q_stride, i64 batch, int dtype, Address cache,
                     int cache_dtype, i64 pages, i64 page_size, i64 rope_dim, Address block_tables,
                     i64 block_table_stride, i64 block_table_width, Address seq_lens, float scale, Address out,
                     i64 q_len, float cache_scale, Address lse) {
             attend(engine,
                    {&kv, pointer(q), q_stride, batch, nullptr, dtype_of(dtype), pointer(cache),
                     cache_dtype_of(cache_dtype), page_size, rope_dim, pointer<const i32>(block_tables),
                     block_table_stride, block_table_width, pointer<const i32>(seq_lens), scale, pointer(out), q_len,
                     cache_scale, pointer<float>(lse)},
                    pages);
           })
      .def("direct_decode",
           [&engine](const KvProjection& kv, py::handle q, py::handle cache, py::handle tables, py::handle lengths,
                     float scale, i64 q_len) {
             direct::View views[4];
             if (q_len < 1 || q_len > kMostQueries || !read_common(kv, views, {q, cache, tables, lengths}) ||
                 views[0].size(0) != views[3].size(0) * q_len)
               return direct::declined();
             return attend_direct(engine, kv, views, nullptr, scale, q_len);
           })
      .def("direct_prefill",
           [&engine](const KvProjection& kv, py::handle q, py::handle cache, py::handle cu_q_, py::handle tables,
                     py::handle lengths, float scale) {
             direct::View views[4], cu_q;
             if (!read_common(kv, views, {q, cache, tables, lengths}) || !direct::View::read(cu_q_, cu_q) ||
                 !cu_q.vector(views[3].size(0) + 1) || !cu_q.is(dlpack::kInt32))
               return direct::declined();
             check_spans("mla.prefill", cu_q.data<i32>(), views[3].size(0), views[0].size(0));
             return attend_direct(engine, kv, views, cu_q.data<i32>(), scale);
           })
      .def("prefill", [&engine](const KvProjection& kv, Address q, i64 q_stride, i64 rows, Address cu_q, int dtype,
                                Address cache, int cache_dtype, i64 pages, i64 page_size, i64 rope_dim,
                                Address block_tables, i64 block_table_stride, i64 block_table_width, Address seq_lens,
                                float scale, Address out, float cache_scale) {
        require(cu_q != 0, "prefill: cu_q must be given");
        attend(engine,
               {&kv, pointer(q), q_stride, rows, pointer<const i32>(cu_q), dtype_of(dtype), pointer(cache),
                cache_dtype_of(cache_dtype), page_size, rope_dim, pointer<const i32>(block_tables), block_table_stride,
                block_table_width, pointer<const i32>(seq_lens), scale, pointer(out), 1, cache_scale},
               pages);
      });
}

}  // namespace ts
