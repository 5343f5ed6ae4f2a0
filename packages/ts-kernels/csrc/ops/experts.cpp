// Routed experts: rows sorted by expert, each expert's gated MLP over its rows, weighted sum in the order of the
// routing.
#include "ops/gated.h"
#include "ops/gemm.h"
#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

// A (row, choice) pair has a place in the order of experts; its result waits there until the sum.
struct Plan {
  const i32* starts;  // [experts + 1] first place of each expert
  const i32* rows;    // [pairs] the row of each place
  const i32* places;  // [rows * top_k] the place of each pair, -1 for an expert that lives elsewhere
  const i32* blocks;  // [block_count] expert of each block of at most kBlock places
  const i32* firsts;  // [block_count] its first place
  i64 block_count;
};

constexpr i64 kBlock = 128;  // places a task takes: large enough to widen the weights once, small enough to balance

// Counting sort. Everything lives in one scratch block.
Plan make_plan(const ExpertsArgs& a) {
  const i64 experts = static_cast<i64>(a.experts->gate_up.size()), pairs = a.rows * a.top_k;
  i32* starts = scratch_of<i32>(Slot::order, 2 * (experts + 1) + 2 * pairs + 2 * (experts + pairs / kBlock + 1));
  i32* next = starts + experts + 1;
  i32* rows = next + experts + 1;
  i32* places = rows + pairs;
  i32* blocks = places + pairs;
  i32* firsts = blocks + experts + pairs / kBlock + 1;
  for (i64 e = 0; e <= experts; ++e) starts[e] = 0;
  for (i64 i = 0; i < pairs; ++i)
    if (a.ids[i] >= 0 && a.ids[i] < experts) ++starts[a.ids[i] + 1];
  i64 block_count = 0;
  for (i64 e = 0; e < experts; ++e) {
    starts[e + 1] += starts[e];
    next[e] = starts[e];
    for (i64 first = starts[e]; first < starts[e + 1]; first += kBlock) {
      blocks[block_count] = static_cast<i32>(e);
      firsts[block_count++] = static_cast<i32>(first);
    }
  }
  for (i64 i = 0; i < pairs; ++i) {
    const bool here = a.ids[i] >= 0 && a.ids[i] < experts;
    places[i] = here ? next[a.ids[i]]++ : -1;
    if (here) rows[places[i]] = static_cast<i32>(i / a.top_k);
  }
  return {starts, rows, places, blocks, firsts, block_count};
}

// bias [2 * inter], or null.
void activate_rows(const Activation& activation, const float* bias, const float* hidden, i64 rows, i64 inter,
                   float* out) {
  const auto part = [&](const float* values, const float* offsets, i64 i) TS_LAMBDA {
    const vf v = load_as_float(values, DType::f32, i, inter - i);
    return offsets ? v + load_as_float(offsets, DType::f32, i, inter - i) : v;
  };
  for (i64 row = 0; row < rows; ++row) {
    const float* gate = hidden + row * 2 * inter;
    for (i64 i = 0; i < inter; i += W) {
      const vf value =
          gated_value(activation, part(gate, bias, i), part(gate + inter, bias ? bias + inter : nullptr, i));
      store_as(out + row * inter, DType::f32, i, value, inter - i);
    }
  }
}

// One gated MLP, but for down's bias.
void run_expert(const WeightView& gate_up, const WeightView& down, const Activation& activation, const float* bias,
                const Source& x, float* out) {
  const i64 inter = down.k, rows = x.rows;
  float* hidden = scratch_of<float>(Slot::hidden, rows * 2 * inter);
  float* activated = scratch_of<float>(Slot::activated, rows * inter);
  multiply_rows(gate_up, rows_for(nullptr, gate_up, x, Slot::rows_in), 0, rows, 0, 2 * inter, hidden, 2 * inter);
  activate_rows(activation, bias, hidden, rows, inter, activated);
  const Rows between = rows_for(nullptr, down, {activated, inter, rows, DType::f32, x.activations}, Slot::rows_between);
  multiply_rows(down, between, 0, rows, 0, down.n, out, down.n);
}

void run_block(const ExpertsArgs& a, const Plan& plan, i64 block, float* results) {
  const i64 expert = plan.blocks[block], first = plan.firsts[block], dim = a.experts->dim;
  const i64 rows = min_of(kBlock, plan.starts[expert + 1] - first);
  const i64 bytes = dim * size_of(a.dtype);
  char* x = scratch_of<char>(Slot::gathered, rows * bytes);
  for (i64 i = 0; i < rows; ++i)
    std::memcpy(x + i * bytes, at(a.x, a.dtype, plan.rows[first + i] * a.x_stride), static_cast<std::size_t>(bytes));
  const std::vector<float>& biases = a.experts->gate_up_bias;
  run_expert(a.experts->gate_up[static_cast<std::size_t>(expert)], a.experts->down[static_cast<std::size_t>(expert)],
             a.experts->activation, biases.empty() ? nullptr : biases.data() + expert * 2 * a.experts->inter,
             {x, dim, rows, a.dtype, a.dtype}, results + first * dim);
}

void run_shared_block(const ExpertsArgs& a, i64 first, float* results) {
  const i64 rows = min_of(kBlock, a.rows - first), dim = a.experts->dim;
  const Source x{at(a.x, a.dtype, first * a.x_stride), a.x_stride, rows, a.dtype, a.dtype};
  run_expert(*a.shared_gate_up, *a.shared_down, {}, nullptr, x, results + first * dim);
}

// The sum goes in the order of the choices, whichever expert was computed first.
void combine(const ExpertsArgs& a, const Plan& plan, const float* results, const float* shared, i64 row) {
  const i64 dim = a.experts->dim;
  void* out = at(a.out, a.dtype, row * dim);
  const i32* places = plan.places + row * a.top_k;
  const float* weights = a.weights + row * a.top_k;
  const float* biases = a.experts->down_bias.empty() ? nullptr : a.experts->down_bias.data();
  for (i64 i = 0; i < dim; i += W) {
    const i64 n = dim - i;
    vf total = shared ? load_as_float(shared + row * dim, DType::f32, i, n) : zero();
    for (i64 j = 0; j < a.top_k; ++j)
      if (places[j] >= 0) {
        vf value = load_as_float(results + places[j] * dim, DType::f32, i, n);
        if (biases) value = value + load_as_float(biases + a.ids[row * a.top_k + j] * dim, DType::f32, i, n);
        total = fma(set1(weights[j]), value, total);
      }
    store_as(out, a.dtype, i, total, n);
  }
}

}  // namespace

void experts(Pool& pool, const ExpertsArgs& a) {
  const i64 dim = a.experts->dim, pairs = a.rows * a.top_k;
  const Plan plan = make_plan(a);
  float* results = scratch_of<float>(Slot::pairs, (pairs + a.rows) * dim);
  float* shared = a.shared_gate_up ? results + pairs * dim : nullptr;
  const i64 shared_blocks = shared ? ceil_div(a.rows, kBlock) : 0;
  const i64 flops = 3 * dim * (pairs * a.experts->inter + (shared ? a.rows * a.shared_down->k : 0));
  parallel(pool, shared_blocks + plan.block_count, flops, [&](i64 task) {
    if (task < shared_blocks) {
      run_shared_block(a, task * kBlock, shared);
    } else {
      run_block(a, plan, task - shared_blocks, results);
    }
  });
  constexpr i64 kRows = 32;
  parallel(pool, ceil_div(a.rows, kRows), pairs * dim, [&](i64 task) {
    for (i64 row = task * kRows; row < min_of((task + 1) * kRows, a.rows); ++row)
      combine(a, plan, results, shared, row);
  });
}

}  // namespace ts::TS_ISA
