#include "layout/fp8.h"

namespace ts {
namespace {

constexpr float kLargest = 448.0f, kLeastScale = 1e-12f;

u32 bits_of(float x) {
  u32 bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

// The nearest e4m3 to a number of at most 448, ties to even.
unsigned char to_e4m3(float x) {
  const u32 bits = bits_of(x), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<unsigned char>(sign | 0x7f);
  // Below 2^-6 a step is 2^-9; adding 2^23 rounds to whole steps and leaves them in the lowest bits.
  const u32 subnormal = bits_of((x < 0 ? -x : x) * 512.0f + 8388608.0f) & 15;
  const u32 normal = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - 960;
  return static_cast<unsigned char>(sign | (magnitude < 0x3c800000u ? subnormal : normal));
}

float quantize_group(const void* x, DType dtype, i64 count, unsigned char* values) {
  u32 largest = 0;  // as bits, so that a NaN is the largest
  for (i64 i = 0; i < count; ++i) {
    const u32 magnitude = bits_of(load_scalar(x, dtype, i)) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  float scale;
  std::memcpy(&scale, &largest, 4);
  scale /= kLargest;
  if (scale < kLeastScale) scale = kLeastScale;
  for (i64 i = 0; i < count; ++i) {
    const float q = load_scalar(x, dtype, i) / scale;
    values[i] = to_e4m3(q > kLargest ? kLargest : q < -kLargest ? -kLargest : q);
  }
  return scale;
}

}  // namespace

void quantize_fp8(const Fp8Args& a) {
  const i64 groups = ceil_div(a.dim, a.group);
  for (i64 row = 0; row < a.rows; ++row)
    for (i64 g = 0; g < groups; ++g) {
      const i64 from = g * a.group;
      a.scales[row * groups + g] = quantize_group(at(a.x, a.dtype, row * a.x_stride + from), a.dtype,
                                                  min_of(a.group, a.dim - from), a.values + row * a.dim + from);
    }
}

}  // namespace ts
