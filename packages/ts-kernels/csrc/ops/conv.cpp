// Depthwise causal convolution with SiLU over a state of the last inputs; and what else a gated delta net needs between
// its products: the gated norm, copies of states.
#include <cmath>

#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

constexpr i64 kChannels = 512;  // of a task

struct Block {
  i64 row, channel, count;
};

// weight [channels][width] of a block as fp32 [width][kChannels].
void load_weight(const ConvArgs& a, const Block& b, float* w) {
  for (i64 i = 0; i < b.count; ++i)
    for (i64 j = 0; j < a.width; ++j)
      w[j * kChannels + i] = load_scalar(a.weight, a.weight_dtype, (b.channel + i) * a.width + j);
}

// The input `back` tokens before the row's token `t`: one of x, or of the state, whose last line is the newest.
TS_INLINE vf input(const ConvArgs& a, const Block& b, i64 first, i64 t, i64 back, const float* past, i64 i) {
  const i64 n = b.count - i;
  if (back <= t) return load_as_float(a.x, a.dtype, (first + t - back) * a.x_stride + b.channel + i, n);
  return load_as_float(past + (a.width - 1 + t - back) * kChannels, DType::f32, i, n);
}

void load_past(const ConvArgs& a, const Block& b, const float* state, float* past) {
  const bool fresh = a.fresh && a.fresh[b.row];
  for (i64 j = 0; j < a.width - 1; ++j)
    for (i64 i = 0; i < b.count; i += W) {
      const vf s = fresh ? zero() : load_as_float(state + j * a.channels, DType::f32, i, b.count - i);
      store_as(past + j * kChannels, DType::f32, i, s, b.count - i);
    }
}

void convolve(const ConvArgs& a, const Block& b, i64 first, i64 count, const float* w, const float* past) {
  for (i64 t = 0; t < count; ++t) {
    void* out = at(a.out, a.dtype, (first + t) * a.channels + b.channel);
    for (i64 i = 0; i < b.count; i += W) {
      vf sum = zero();
      for (i64 j = 0; j < a.width; ++j)
        sum = fma(load(w + j * kChannels + i), input(a, b, first, t, a.width - 1 - j, past, i), sum);
      store_as(out, a.dtype, i, silu(sum), b.count - i);
    }
  }
}

void run_block(const ConvArgs& a, const Block& b) {
  const i64 first = a.cu_q ? a.cu_q[b.row] : b.row, count = a.cu_q ? a.cu_q[b.row + 1] - first : 1;
  if (a.slots[b.row] < 0) {
    for (i64 t = 0; t < count; ++t)
      for (i64 i = 0; i < b.count; i += W)
        store_as(a.out, a.dtype, (first + t) * a.channels + b.channel + i, zero(), b.count - i);
    return;
  }
  float* w = scratch_of<float>(Slot::weight_tile, (2 * a.width - 1) * kChannels);
  float* past = w + a.width * kChannels;
  float* state = a.states + a.slots[b.row] * (a.width - 1) * a.channels + b.channel;
  load_weight(a, b, w);
  load_past(a, b, state, past);
  convolve(a, b, first, count, w, past);
  for (i64 j = 0; j < a.width - 1; ++j)
    for (i64 i = 0; i < b.count; i += W) {
      const vf v = input(a, b, first, count - 1, a.width - 2 - j, past, i);
      store_as(state + j * a.channels, DType::f32, i, v, b.count - i);
    }
}

}  // namespace

void causal_conv(Pool& pool, const ConvArgs& a) {
  const i64 blocks = ceil_div(a.channels, kChannels);
  const i64 tokens = a.cu_q ? a.cu_q[a.rows] : a.rows;
  parallel(pool, a.rows * blocks, (tokens + a.rows) * a.channels * a.width * 4, [&](i64 i) {
    const i64 channel = i % blocks * kChannels;
    run_block(a, {i / blocks, channel, min_of(kChannels, a.channels - channel)});
  });
}

void gated_norm(Pool& pool, const GatedNormArgs& a) {
  constexpr i64 kRows = 64;
  parallel(pool, ceil_div(a.rows, kRows), a.rows * a.dim * 32, [&](i64 task) {
    for (i64 row = task * kRows; row < min_of((task + 1) * kRows, a.rows); ++row) {
      const void* x = at(a.x, a.dtype, row * a.x_stride);
      const void* z = at(a.z, a.dtype, row * a.z_stride);
      void* out = at(a.out, a.dtype, row * a.dim);
      vf squares = zero();
      for (i64 i = 0; i < a.dim; i += W) {
        const vf v = load_as_float(x, a.dtype, i, a.dim - i);
        squares = fma(v, v, squares);
      }
      const vf factor = set1(1.0f / std::sqrt(hsum(squares) / static_cast<float>(a.dim) + a.eps));
      for (i64 i = 0; i < a.dim; i += W) {
        const i64 n = a.dim - i;
        const vf v = load_as_float(x, a.dtype, i, n) * factor * load_as_float(a.weight, a.weight_dtype, i, n);
        store_as(out, a.dtype, i, v * silu(load_as_float(z, a.dtype, i, n)), n);
      }
    }
  });
}

void copy_states(Pool& pool, const StateCopyArgs& a) {
  constexpr i64 kPart = 1 << 18;
  const i64 parts = ceil_div(a.bytes, kPart);
  parallel(pool, a.count * parts, a.count * a.bytes / 8, [&](i64 task) {
    const i64 i = task / parts, begin = task % parts * kPart;
    if (a.from[i] < 0 || a.to[i] < 0) return;
    std::memcpy(a.target + a.to[i] * a.bytes + begin, a.source + a.from[i] * a.bytes + begin,
                static_cast<std::size_t>(min_of(kPart, a.bytes - begin)));
  });
}

}  // namespace ts::TS_ISA
