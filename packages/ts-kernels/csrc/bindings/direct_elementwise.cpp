// Direct calls of the operations without prepared weights; see direct.h.
#include <cmath>

#include "bindings/checks.h"
#include "bindings/direct.h"

namespace ts {
namespace {

using direct::declined;
using direct::View;

void bind_norms(py::module_& m, Engine& engine) {
  m.def("direct_rms_norm", [&engine](py::handle x_, py::handle weight_, float eps) {
    View x, weight;
    if (!direct::read({x_, weight_}, x, weight) || !x.matrix() || !x.is_float() || !weight.is_float())
      return declined();
    const i64 rows = x.size(0), dim = x.size(1);
    if (!weight.vector(dim) || dim == 0) return declined();
    direct::Fresh out = direct::fresh({rows, dim}, x.dtype());
    engine.run<NormArgs>(
        &KernelTable::norm,
        {x.data(), x.stride(0), nullptr, weight.data(), weight.code(), eps, out.data, rows, dim, x.code()},
        rows * dim * 4);
    return std::move(out.object);
  });
  m.def("direct_add_rms_norm",
        [&engine](py::handle x_, py::handle residual_, py::handle weight_, float eps) -> py::object {
          View x, residual, weight;
          if (!direct::read({x_, residual_, weight_}, x, residual, weight) || !x.matrix() || !x.is_float() ||
              !weight.is_float())
            return declined();
          const i64 rows = x.size(0), dim = x.size(1);
          if (!weight.vector(dim) || dim == 0 || !residual.dense(rows, dim) || !residual.is(x.dtype()) ||
              !residual.apart_from(x))
            return declined();
          direct::Fresh out = direct::fresh({rows, dim}, x.dtype());
          engine.run<NormArgs>(&KernelTable::norm,
                               {x.data(), x.stride(0), residual.data(), weight.data(), weight.code(), eps, out.data,
                                rows, dim, x.code()},
                               rows * dim * 4);
          return py::make_tuple(std::move(out.object), residual_);
        });
}

// By halves the first columns of a head turn, by pairs the last.
py::object rotate(Engine& engine, const char* operation, bool halves, py::handle x_, py::handle table_,
                  py::handle positions_) {
  View x, table, positions;
  if (!direct::read({x_, table_, positions_}, x, table, positions) || x.rank() != 3 || x.stride(2) != 1 ||
      !x.is_float() || x.overlaps())
    return declined();
  if (table.rank() != 2 || !table.is(dlpack::kFloat32) || !positions.is(dlpack::kInt64)) return declined();
  const i64 tokens = x.size(0), limit = table.size(0), rotary = table.size(1);
  if (!table.dense(limit, rotary) || rotary < 2 || rotary % 2 || rotary > x.size(2) || !positions.vector(tokens))
    return declined();
  check_range(operation, "positions", positions.data<i64>(), tokens, 0, limit);
  engine.run<RopeArgs>(&KernelTable::rope,
                       {x.data(), x.stride(0), x.stride(1), tokens, x.size(1), halves ? 0 : x.size(2) - rotary, rotary,
                        table.data<float>(), positions.data<i64>(), x.code(), halves, nullptr, nullptr, rotary},
                       tokens * x.size(1) * rotary * 8);
  return py::reinterpret_borrow<py::object>(x_);
}

void bind_positions(py::module_& m, Engine& engine) {
  m.def("direct_apply_interleaved", [&engine](py::handle x, py::handle table, py::handle positions) {
    return rotate(engine, "rope.apply_interleaved", false, x, table, positions);
  });
  m.def("direct_apply_halves", [&engine](py::handle x, py::handle table, py::handle positions) {
    return rotate(engine, "rope.apply_halves", true, x, table, positions);
  });
  m.def(
      "direct_write_latent",
      [&engine](py::handle kv_, py::handle gain_, float eps, py::handle table_, py::handle positions_,
                py::handle slots_, py::handle cache_) -> py::object {
        View kv, gain, table, positions, slots, cache;
        if (!direct::read({kv_, gain_, table_, positions_, slots_, cache_}, kv, gain, table, positions, slots, cache) ||
            !kv.matrix() || !kv.is_float() || !gain.is_float() || gain.rank() != 1 || table.rank() != 2 ||
            !cache.dense3())
          return declined();
        const i64 tokens = kv.size(0), latent = gain.size(0), limit = table.size(0), rotary = table.size(1);
        const i64 room = cache.size(0) * cache.size(1);
        if (!gain.vector(latent) || !table.dense(limit, rotary) || !table.is(dlpack::kFloat32) || rotary % 2 ||
            latent == 0 || kv.size(1) != latent + rotary || cache.size(2) != latent + rotary || !cache.is_float() ||
            !positions.vector(tokens) || !positions.is(dlpack::kInt64) || !slots.vector(tokens) ||
            !slots.is(dlpack::kInt64))
          return declined();
        check_range("kv_cache.write_latent", "positions", positions.data<i64>(), tokens, 0, limit);
        check_below("kv_cache.write_latent", "slot_mapping", slots.data<i64>(), tokens, room);
        engine.run<LatentArgs>(
            &KernelTable::write_latent,
            {kv.data(), kv.stride(0), tokens, latent, rotary, gain.data(), gain.code(), eps, table.data<float>(),
             positions.data<i64>(), slots.data<i64>(), cache.data(), cache.code(), kv.code()},
            tokens * (latent + rotary) * 8);
        return py::none();
      });
}

void bind_rows(py::module_& m, Engine& engine) {
  m.def("direct_silu_mul", [&engine](py::handle x_) {
    View x;
    if (!View::read(x_, x) || !x.matrix() || !x.is_float() || x.size(1) % 2 || x.size(1) == 0) return declined();
    const i64 rows = x.size(0), inter = x.size(1) / 2;
    direct::Fresh out = direct::fresh({rows, inter}, x.dtype());
    engine.run<SiluMulArgs>(&KernelTable::silu_mul, {x.data(), x.stride(0), out.data, rows, inter, x.code()},
                            rows * inter * 16);
    return std::move(out.object);
  });
  m.def("direct_route_sigmoid",
        [&engine](py::handle logits_, py::handle bias_, i64 top_k, i64 n_group, i64 topk_group, float scale,
                  bool normalize) -> py::object {
          View logits, bias;
          if (!direct::read({logits_, bias_}, logits, bias) || !logits.matrix() || !logits.is(dlpack::kFloat32))
            return declined();
          const i64 rows = logits.size(0), experts = logits.size(1);
          if (!bias.vector(experts) || !bias.is(dlpack::kFloat32) || n_group < 1 || experts % n_group ||
              topk_group < 1 || topk_group > n_group || top_k < 1 || top_k > experts / n_group * topk_group)
            return declined();
          direct::Fresh weights = direct::fresh({rows, top_k}, dlpack::kFloat32),
                        ids = direct::fresh({rows, top_k}, dlpack::kInt32);
          engine.run<RouteArgs>(
              &KernelTable::route,
              {logits.data<float>(), logits.stride(0), rows, experts, bias.data<float>(), top_k, n_group, topk_group,
               scale, normalize, static_cast<float*>(weights.data), static_cast<i32*>(ids.data)},
              rows * experts * (top_k + 2) * 4);
          return py::make_tuple(std::move(weights.object), std::move(ids.object));
        });
  m.def("direct_route_softmax", [&engine](py::handle logits_, i64 top_k, float scale, bool normalize) -> py::object {
    View logits;
    if (!View::read(logits_, logits) || !logits.matrix() || !logits.is(dlpack::kFloat32) || top_k < 1 ||
        top_k > logits.size(1) || !std::isfinite(scale))
      return declined();
    const i64 rows = logits.size(0), experts = logits.size(1);
    direct::Fresh weights = direct::fresh({rows, top_k}, dlpack::kFloat32),
                  ids = direct::fresh({rows, top_k}, dlpack::kInt32);
    engine.run<RouteSoftmaxArgs>(&KernelTable::route_softmax,
                                 {logits.data<float>(), logits.stride(0), rows, experts, top_k, scale, normalize,
                                  static_cast<float*>(weights.data), static_cast<i32*>(ids.data)},
                                 rows * experts * (top_k + 2) * 4);
    return py::make_tuple(std::move(weights.object), std::move(ids.object));
  });
  m.def("direct_sample", [&engine](py::handle logits_, py::handle heat_, py::handle k_, py::handle p_,
                                   py::handle seeds_, py::handle positions_) {
    View logits, heat, k, p, seeds, positions;
    if (!direct::read({logits_, heat_, k_, p_, seeds_, positions_}, logits, heat, k, p, seeds, positions) ||
        !logits.matrix() || !logits.is(dlpack::kFloat32) || logits.size(1) == 0)
      return declined();
    const i64 rows = logits.size(0);
    if (!heat.vector(rows) || !heat.is(dlpack::kFloat32) || !k.vector(rows) || !k.is(dlpack::kInt32) ||
        !p.vector(rows) || !p.is(dlpack::kFloat32) || !seeds.vector(rows) || !seeds.is(dlpack::kInt64) ||
        !positions.vector(rows) || !positions.is(dlpack::kInt64))
      return declined();
    const DrawArgs draw{heat.data<float>(), k.data<i32>(),         p.data<float>(),
                        seeds.data<i64>(),  positions.data<i64>(), nullptr};
    check_draw("sampling.sample", draw, rows);
    direct::Fresh out = direct::fresh({rows}, dlpack::kInt32);
    engine.run<SampleArgs>(
        &KernelTable::sample,
        {logits.data<float>(), logits.stride(0), rows, logits.size(1), draw, static_cast<i32*>(out.data)},
        rows * logits.size(1) * 8);
    return std::move(out.object);
  });
}

}  // namespace

void bind_direct(py::module_& m, Engine& engine) {
  m.def("readable", &direct::readable);
  bind_norms(m, engine);
  bind_positions(m, engine);
  bind_rows(m, engine);
}

}  // namespace ts
