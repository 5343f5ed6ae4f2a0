// Gated delta nets: convolution, delta rule, gated norm, copies of states.
#include "bindings/checks.h"

namespace ts {
namespace {

void check_rows(const char* operation, const i64* slots, i64 limit, const i32* cu_q, i64 rows, i64 tokens) {
  check_below(operation, "slots", slots, rows, limit);
  if (cu_q) return check_spans(operation, cu_q, rows, tokens);
  require(tokens == rows, "without cu_q there must be one token a row");
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
  bind_conv(m, engine);
  bind_delta(m, engine);
  bind_rest(m, engine);
}

}  // namespace ts
