// Norms, rotary embedding, activation, routing, embedding, cache writes.
#include "bindings/checks.h"

namespace ts {
namespace {

void bind_norms(py::module_& m, Engine& engine) {
  m.def("rms_norm", [&engine](Address x, i64 x_stride, Address weight, int weight_dtype, float eps, Address out,
                              i64 rows, i64 dim, int dtype) {
    require(rows >= 0 && dim > 0, "rms_norm: rows must not be negative and dim must be positive");
    engine.run<NormArgs>(&KernelTable::norm,
                         {pointer(x), x_stride, nullptr, pointer(weight), dtype_of(weight_dtype), eps, pointer(out),
                          rows, dim, dtype_of(dtype)},
                         rows * dim * 4);
  });
  m.def("add_rms_norm", [&engine](Address x, i64 x_stride, Address residual, Address weight, int weight_dtype,
                                  float eps, Address out, i64 rows, i64 dim, int dtype) {
    require(rows >= 0 && dim > 0, "add_rms_norm: rows must not be negative and dim must be positive");
    require(residual != 0 || rows == 0, "add_rms_norm: residual must be given");
    engine.run<NormArgs>(&KernelTable::norm,
                         {pointer(x), x_stride, pointer(residual), pointer(weight), dtype_of(weight_dtype), eps,
                          pointer(out), rows, dim, dtype_of(dtype)},
                         rows * dim * 4);
  });
  m.def("layer_norm", [&engine](Address x, i64 x_stride, Address weight, Address bias, int weight_dtype, float eps,
                                Address out, i64 rows, i64 dim, int dtype) {
    require(rows >= 0 && dim > 0, "layer_norm: rows must not be negative and dim must be positive");
    engine.run<LayerNormArgs>(&KernelTable::layer_norm,
                              {pointer(x), x_stride, pointer(weight), pointer(bias), dtype_of(weight_dtype), eps,
                               pointer(out), rows, dim, dtype_of(dtype)},
                              rows * dim * 6);
  });
}

void bind_rope(py::module_& m, Engine& engine) {
  m.def("apply_interleaved",
        [&engine](Address x, i64 token_stride, i64 head_stride, i64 tokens, i64 heads, i64 head_dim, i64 rope_dim,
                  Address cos_sin, i64 max_positions, Address positions, int dtype) {
          require(rope_dim >= 0 && rope_dim % 2 == 0 && rope_dim <= head_dim,
                  "apply_interleaved: rope_dim must be even and <= head_dim");
          check_range("rope.apply_interleaved", "positions", pointer<const i64>(positions), tokens, 0, max_positions);
          engine.run<RopeArgs>(&KernelTable::rope,
                               {pointer(x), token_stride, head_stride, tokens, heads, head_dim - rope_dim, rope_dim,
                                pointer<const float>(cos_sin), pointer<const i64>(positions), dtype_of(dtype)},
                               tokens * heads * rope_dim * 8);
        });
  m.def("rotate", [&engine](Address x, i64 token_stride, i64 head_stride, i64 tokens, i64 heads, i64 first,
                            i64 rope_dim, bool halves, Address cos_sin, i64 table_dim, i64 max_positions,
                            Address positions, i64 axes, Address pair_axis, Address pair_column, int dtype) {
    require(rope_dim > 0 && rope_dim % 2 == 0 && table_dim > 0 && table_dim % 2 == 0,
            "rotate: rope_dim and table_dim must be even and positive");
    check_range("rope", "positions", pointer<const i64>(positions), tokens * axes, 0, max_positions);
    engine.run<RopeArgs>(&KernelTable::rope,
                         {pointer(x), token_stride, head_stride, tokens, heads, first, rope_dim,
                          pointer<const float>(cos_sin), pointer<const i64>(positions), dtype_of(dtype), halves,
                          pointer<const i32>(pair_axis), pointer<const i32>(pair_column), table_dim},
                         tokens * heads * rope_dim * 8);
  });
  m.def("copy_pages", [&engine](Address from, i64 from_limit, Address to, i64 to_limit, Address from_pages,
                                Address to_pages, i64 count, i64 bytes) {
    check_range("kv_cache.copy_pages", "source_pages", pointer<const i64>(from_pages), count, 0, from_limit);
    check_range("kv_cache.copy_pages", "target_pages", pointer<const i64>(to_pages), count, 0, to_limit);
    engine.run<CopyArgs>(
        &KernelTable::copy_pages,
        {pointer(from), pointer(to), pointer<const i64>(from_pages), pointer<const i64>(to_pages), count, bytes},
        count * bytes);
  });
  m.def("write_latent", [&engine](Address kv_a, i64 kv_stride, i64 tokens, i64 latent, i64 rope_dim,
                                  Address norm_weight, int norm_dtype, float eps, Address cos_sin, i64 max_positions,
                                  Address positions, Address slots, Address cache, int cache_dtype, i64 cache_slots,
                                  int dtype, float cache_scale) {
    require(latent > 0 && rope_dim >= 0 && rope_dim % 2 == 0,
            "write_latent: latent must be positive and rope_dim even");
    check_range("kv_cache.write_latent", "positions", pointer<const i64>(positions), tokens, 0, max_positions);
    const i64* slot = pointer<const i64>(slots);
    check_below("kv_cache.write_latent", "slot_mapping", slot, tokens, cache_slots);
    engine.run<LatentArgs>(&KernelTable::write_latent,
                           {pointer(kv_a), kv_stride, tokens, latent, rope_dim, pointer(norm_weight),
                            dtype_of(norm_dtype), eps, pointer<const float>(cos_sin), pointer<const i64>(positions),
                            slot, pointer(cache), cache_dtype_of(cache_dtype), dtype_of(dtype), cache_scale},
                           tokens * (latent + rope_dim) * 8);
  });
}

void bind_routing(py::module_& m, Engine& engine) {
  m.def("route_sigmoid",
        [&engine](Address logits, i64 stride, i64 rows, i64 experts, Address bias, i64 top_k, i64 n_group,
                  i64 topk_group, float scale, bool normalize, Address weights, Address ids) {
          require(n_group >= 1 && experts % n_group == 0, "route_sigmoid: n_group must divide experts");
          require(topk_group >= 1 && topk_group <= n_group, "route_sigmoid: topk_group must be between 1 and n_group");
          require(top_k >= 1 && top_k <= experts / n_group * topk_group,
                  "route_sigmoid: top_k exceeds the experts of topk_group groups");
          engine.run<RouteArgs>(&KernelTable::route,
                                {pointer<const float>(logits), stride, rows, experts, pointer<const float>(bias), top_k,
                                 n_group, topk_group, scale, normalize, pointer<float>(weights), pointer<i32>(ids)},
                                rows * experts * (top_k + 2) * 4);
        });
  m.def("route_softmax", [&engine](Address logits, i64 stride, i64 rows, i64 experts, i64 top_k, float scale,
                                   bool normalize, Address weights, Address ids) {
    require(top_k >= 1 && top_k <= experts, "route_softmax: top_k must be between 1 and experts");
    engine.run<RouteSoftmaxArgs>(&KernelTable::route_softmax,
                                 {pointer<const float>(logits), stride, rows, experts, top_k, scale, normalize,
                                  pointer<float>(weights), pointer<i32>(ids)},
                                 rows * experts * (top_k + 2) * 4);
  });
}

void bind_tokens(py::module_& m, Engine& engine) {
  m.def("silu_mul", [&engine](Address gate_up, i64 stride, Address out, i64 rows, i64 inter, int dtype) {
    require(inter > 0, "silu_mul: inter must be positive");
    engine.run<SiluMulArgs>(&KernelTable::silu_mul,
                            {pointer(gate_up), stride, pointer(out), rows, inter, dtype_of(dtype)}, rows * inter * 16);
  });
  m.def("gated", [&engine](Address gate_up, i64 stride, Address out, i64 rows, i64 inter, int dtype, int gate,
                           float alpha, float limit, bool interleaved) {
    require(inter > 0, "gated: inter must be positive");
    engine.run<GatedArgs>(&KernelTable::gated,
                          {pointer(gate_up), stride, pointer(out), rows, inter, dtype_of(dtype),
                           activation_of(gate, alpha, limit), interleaved},
                          rows * inter * 16);
  });
  m.def("gelu", [&engine](Address x, i64 stride, Address out, i64 rows, i64 dim, int dtype, bool tanh) {
    require(dim > 0, "gelu: dim must be positive");
    engine.run<GeluArgs>(&KernelTable::gelu, {pointer(x), stride, pointer(out), rows, dim, dtype_of(dtype), tanh},
                         rows * dim * 16);
  });
  m.def("gather_rows", [&engine](Address table, int table_dtype, i64 table_rows, i64 dim, Address ids,
                                 bool ids_are_int64, i64 rows, Address out, int dtype) {
    require(dim > 0, "gather_rows: dim must be positive");
    constexpr const char* name = "gemm.gather_rows";
    ids_are_int64 ? check_range(name, "ids", pointer<const i64>(ids), rows, 0, table_rows)
                  : check_range(name, "ids", pointer<const i32>(ids), rows, 0, table_rows);
    engine.run<GatherArgs>(
        &KernelTable::gather,
        {pointer(table), dtype_of(table_dtype), dim, pointer(ids), ids_are_int64, rows, pointer(out), dtype_of(dtype)},
        rows * dim * 2);
  });
}

}  // namespace

void bind_elementwise(py::module_& m, Engine& engine) {
  bind_norms(m, engine);
  bind_rope(m, engine);
  bind_routing(m, engine);
  bind_tokens(m, engine);
}

}  // namespace ts
