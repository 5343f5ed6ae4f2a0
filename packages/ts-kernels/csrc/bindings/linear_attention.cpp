// Gated delta nets: convolution, delta rule, gated norm, copies of states.
#include <pybind11/stl.h>

#include <cmath>

#include "bindings/checks.h"
#include "bindings/direct.h"

namespace ts {
namespace {

void check_rows(const char* operation, const i64* slots, i64 limit, const i32* cu_q, i64 rows, i64 tokens) {
  check_below(operation, "slots", slots, rows, limit);
  if (cu_q) return check_spans(operation, cu_q, rows, tokens);
  require(tokens == rows, "without cu_q there must be one token a row");
}

py::object conv_step(Engine& engine, py::handle x_, py::handle weight_, py::handle states_, py::handle slots_) {
  direct::View x, weight, states, slots;
  if (!direct::read({x_, weight_, states_, slots_}, x, weight, states, slots) || !x.matrix() || !x.is_float() ||
      weight.rank() != 2 || !weight.is_float())
    return direct::declined();
  const i64 rows = x.size(0), channels = x.size(1), width = weight.size(1);
  if (channels < 1 || width < 2 || !weight.dense(channels, width) || !states.dense3() || !states.is(dlpack::kFloat32) ||
      states.size(1) != width - 1 || states.size(2) != channels || !slots.vector(rows) || !slots.is(dlpack::kInt64))
    return direct::declined();
  check_below("linear_attention.causal_conv_step", "slots", slots.data<i64>(), rows, states.size(0));
  direct::Fresh out = direct::fresh({rows, channels}, x.dtype());
  engine.run<ConvArgs>(&KernelTable::causal_conv,
                       {x.data(), x.stride(0), x.code(), weight.data(), weight.code(), states.data<float>(),
                        slots.data<i64>(), nullptr, nullptr, rows, channels, width, out.data},
                       2 * rows * channels * width * 4);
  return std::move(out.object);
}

py::object delta_step(Engine& engine, py::handle q_, py::handle k_, py::handle v_, py::handle a_, py::handle b_,
                      py::handle a_log_, py::handle bias_, py::handle states_, py::handle slots_,
                      std::optional<float> scale) {
  direct::View q, k, v, a, b, a_log, bias, states, slots;
  if (!direct::read({q_, k_, v_, a_, b_, a_log_, bias_, states_, slots_}, q, k, v, a, b, a_log, bias, states, slots) ||
      !q.heads() || !k.heads() || !v.heads() || !q.is_float() || !k.is(q.dtype()) || !v.is(q.dtype()))
    return direct::declined();
  const i64 rows = q.size(0), heads = q.size(1), width = q.size(2), values = v.size(1), value = v.size(2);
  if (k.size(0) != rows || k.size(1) != heads || k.size(2) != width || v.size(0) != rows || values % heads)
    return direct::declined();
  const bool gates = a.matrix(values) && b.matrix(values) && a.size(0) == rows && b.size(0) == rows && a.is_float() &&
                     b.is(a.dtype()) && a_log.vector(values) && bias.vector(values) && a_log.is(dlpack::kFloat32) &&
                     bias.is(dlpack::kFloat32);
  const bool pool = states.rank() == 4 && states.is(dlpack::kFloat32) && states.size(1) == values &&
                    states.size(2) == width && states.size(3) == value && states.stride(3) == 1 &&
                    states.stride(2) == value && states.stride(1) == width * value &&
                    states.stride(0) == values * width * value;
  if (!gates || !pool || !slots.vector(rows) || !slots.is(dlpack::kInt64) || (scale && !std::isfinite(*scale)))
    return direct::declined();
  check_below("linear_attention.gated_delta_step", "slots", slots.data<i64>(), rows, states.size(0));
  direct::Fresh out = direct::fresh({rows, values, value}, q.dtype());
  const float factor = scale.value_or(static_cast<float>(1 / std::sqrt(static_cast<double>(width))));
  engine.run<DeltaArgs>(&KernelTable::gated_delta,
                        {q.data(),
                         k.data(),
                         v.data(),
                         q.stride(0),
                         k.stride(0),
                         v.stride(0),
                         q.code(),
                         a.data(),
                         b.data(),
                         a.stride(0),
                         b.stride(0),
                         a.code(),
                         a_log.data<float>(),
                         bias.data<float>(),
                         states.data<float>(),
                         slots.data<i64>(),
                         nullptr,
                         nullptr,
                         rows,
                         heads,
                         values,
                         width,
                         value,
                         factor,
                         out.data},
                        rows * values * width * value * 4);
  return std::move(out.object);
}

py::object gated_norm(Engine& engine, py::handle x_, py::handle z_, py::handle weight_, float eps) {
  direct::View x, z, weight;
  if (!direct::read({x_, z_, weight_}, x, z, weight) || !x.matrix() || !x.is_float() || !z.is(x.dtype()) ||
      !weight.is_float())
    return direct::declined();
  const i64 rows = x.size(0), dim = x.size(1);
  if (dim < 1 || !z.matrix(dim) || z.size(0) != rows || !weight.vector(dim) || !std::isfinite(eps) || eps < 0)
    return direct::declined();
  direct::Fresh out = direct::fresh({rows, dim}, x.dtype());
  engine.run<GatedNormArgs>(
      &KernelTable::gated_norm,
      {x.data(), x.stride(0), z.data(), z.stride(0), weight.data(), weight.code(), eps, out.data, rows, dim, x.code()},
      rows * dim * 32);
  return std::move(out.object);
}

void bind_conv(py::module_& m, Engine& engine) {
  m.def("causal_conv", [&engine](Address x, i64 x_stride, i64 tokens, int dtype, Address weight, int weight_dtype,
                                 Address states, i64 state_count, Address slots, Address cu_q, Address fresh, i64 rows,
                                 i64 channels, i64 width, Address out) {
    require(channels > 0 && width > 1, "causal_conv: channels must be positive and width at least 2");
    const i64* slot = pointer<const i64>(slots);
    const i32* spans = pointer<const i32>(cu_q);
    check_rows(spans ? "linear_attention.causal_conv" : "linear_attention.causal_conv_step", slot, state_count, spans,
               rows, tokens);
    engine.run<ConvArgs>(
        &KernelTable::causal_conv,
        {pointer(x), x_stride, dtype_of(dtype), pointer(weight), dtype_of(weight_dtype), pointer<float>(states), slot,
         spans, pointer<const bool>(fresh), rows, channels, width, pointer(out)},
        (tokens + rows) * channels * width * 4);
  });
}

void bind_delta(py::module_& m, Engine& engine) {
  m.def("gated_delta",
        [&engine](Address q, i64 q_stride, Address k, i64 k_stride, Address v, i64 v_stride, i64 tokens, int dtype,
                  Address a, i64 a_stride, Address b, i64 b_stride, int gate_dtype, Address a_log, Address dt_bias,
                  Address states, i64 state_count, Address slots, Address cu_q, Address fresh, i64 rows, i64 key_heads,
                  i64 value_heads, i64 key_dim, i64 value_dim, float scale, Address out) {
          require(key_heads > 0 && value_heads > 0 && value_heads % key_heads == 0,
                  "gated_delta: value_heads must be a multiple of key_heads");
          require(key_dim > 0 && value_dim > 0, "gated_delta: key_dim and value_dim must be positive");
          const i64* slot = pointer<const i64>(slots);
          const i32* spans = pointer<const i32>(cu_q);
          check_rows(spans ? "linear_attention.gated_delta" : "linear_attention.gated_delta_step", slot, state_count,
                     spans, rows, tokens);
          engine.run<DeltaArgs>(&KernelTable::gated_delta,
                                {pointer(q),
                                 pointer(k),
                                 pointer(v),
                                 q_stride,
                                 k_stride,
                                 v_stride,
                                 dtype_of(dtype),
                                 pointer(a),
                                 pointer(b),
                                 a_stride,
                                 b_stride,
                                 dtype_of(gate_dtype),
                                 pointer<const float>(a_log),
                                 pointer<const float>(dt_bias),
                                 pointer<float>(states),
                                 slot,
                                 spans,
                                 pointer<const bool>(fresh),
                                 rows,
                                 key_heads,
                                 value_heads,
                                 key_dim,
                                 value_dim,
                                 scale,
                                 pointer(out)},
                                tokens * value_heads * key_dim * value_dim * 4);
        });
}

void bind_rest(py::module_& m, Engine& engine) {
  m.def("gated_rms_norm", [&engine](Address x, i64 x_stride, Address z, i64 z_stride, Address weight, int weight_dtype,
                                    float eps, Address out, i64 rows, i64 dim, int dtype) {
    require(rows >= 0 && dim > 0, "gated_rms_norm: rows must not be negative and dim must be positive");
    engine.run<GatedNormArgs>(&KernelTable::gated_norm,
                              {pointer(x), x_stride, pointer(z), z_stride, pointer(weight), dtype_of(weight_dtype), eps,
                               pointer(out), rows, dim, dtype_of(dtype)},
                              rows * dim * 32);
  });
  m.def("copy_states", [&engine](Address source, i64 source_slots, Address target, i64 target_slots, Address from,
                                 Address to, i64 count, i64 bytes) {
    const i64 *first = pointer<const i64>(from), *second = pointer<const i64>(to);
    check_below("linear_attention.copy_states", "from_slots", first, count, source_slots);
    check_below("linear_attention.copy_states", "to_slots", second, count, target_slots);
    engine.run<StateCopyArgs>(&KernelTable::copy_states,
                              {pointer<const char>(source), pointer<char>(target), first, second, count, bytes},
                              count * bytes / 8);
  });
}

}  // namespace

void bind_linear_attention(py::module_& m, Engine& engine) {
  m.def("direct_causal_conv_step", [&engine](py::handle x, py::handle weight, py::handle states, py::handle slots) {
    return conv_step(engine, x, weight, states, slots);
  });
  m.def("direct_gated_delta_step",
        [&engine](py::handle q, py::handle k, py::handle v, py::handle a, py::handle b, py::handle a_log,
                  py::handle dt_bias, py::handle states, py::handle slots, std::optional<float> scale) {
          return delta_step(engine, q, k, v, a, b, a_log, dt_bias, states, slots, scale);
        });
  m.def("direct_gated_rms_norm", [&engine](py::handle x, py::handle z, py::handle weight, float eps) {
    return gated_norm(engine, x, z, weight, eps);
  });
  bind_conv(m, engine);
  bind_delta(m, engine);
  bind_rest(m, engine);
}

}  // namespace ts
