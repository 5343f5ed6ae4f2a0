// Weights in the layout of the matrix kernels.
//
// Columns (output features) come in panels of 16. Within a panel, word [u][c] (32 bits) holds, for column c, the values
// of one unit of consecutive k: 1 fp32, 2 bf16 (lower k in the low half), 4 bytes (INT8, e4m3) or 8 nibbles (INT4,
// e2m1; nibble j is k = 8u + j). Integers are in two's complement. One vector load so feeds 16 columns, whatever the
// format, and widening is a shift or a mask; the bf16 form is also what TDPBF16PS and VDPBF16PS want of their second
// operand. Columns and k beyond the weight are zero.
//
// A quantized weight has a scale for each column and group of k: value = (code - zero) * scale.
#pragma once

#include <vector>

#include "common/buffer.h"
#include "common/types.h"

namespace ts {

constexpr i64 kPanel = 16;
constexpr i64 kGroup = 32;  // quantized k are padded to a multiple of this; INT4 experts share a scale among as many

// int4_zero is INT4 with a zero point for each group, fp8 is e4m3, fp4 is e2m1.
enum class Format : int { f32, bf16, int4, int4_zero, int8, fp8, fp4 };

TS_INLINE constexpr i64 unit_of(Format f) {
  return f == Format::f32 ? 1 : f == Format::bf16 ? 2 : f == Format::int8 || f == Format::fp8 ? 4 : 8;
}
TS_INLINE constexpr bool has_scales(Format f) { return f != Format::f32 && f != Format::bf16; }

// A view of packed weights [n, k]; the owner outlives it.
struct WeightView {
  Format format;
  i64 n, k;
  const u32* words;
  i64 panel_stride;              // words between panels
  i64 row_stride;                // words between units
  const void* scales = nullptr;  // [panel][k / group][16]
  DType scale_type = DType::bf16;
  i64 scale_panel_stride = 0;
  i64 group = 0;                 // k that share a scale, a multiple of 16
  const float* zeros = nullptr;  // int4_zero: as the scales
  const float* bias = nullptr;   // [n] what is added to each row of a product
};

// Row-major weights [n, k] as they come: codes (whole bytes a row), scales and zeros [n, ceil(k / group)].
struct QuantizedSource {
  Format format;
  i64 n, k, group;
  const unsigned char* codes;
  u32 flip;  // what a word of four code bytes is combined with (exclusive or) to be two's complement
  const void* scales;
  DType scale_type;
  const float* zeros;
};

class PackedWeight {
 public:
  PackedWeight() = default;
  static PackedWeight dense(const void* weight, i64 row_stride, i64 column_stride, DType dtype, i64 n, i64 k);
  static PackedWeight quantized(const QuantizedSource& source);
  static PackedWeight int4(const u32* packed, const u16* scales, i64 n, i64 k);  // symmetric, groups of 32

  void set_bias(const float* bias);
  void unpack(float* out) const;  // [n, k], without the bias
  const WeightView& view() const { return view_; }
  i64 nbytes() const { return static_cast<i64>(words_.bytes() + scales_.bytes() + zeros_.bytes() + bias_.bytes()); }

 private:
  PackedWeight(Format format, i64 n, i64 k);
  Buffer words_, scales_, zeros_, bias_;
  WeightView view_{};
};

struct Experts {
  std::vector<PackedWeight> gate_up, down;
  i64 inter = 0, dim = 0;
  Activation activation{};
  std::vector<float> gate_up_bias, down_bias;  // [experts][2 * inter], [experts][dim]; empty: none
  MoveOnly move_only{};
};

struct KvProjection {
  i64 heads, nope, v, latent;
  std::vector<PackedWeight> query_to_latent;  // per head [latent, nope]: q_nope -> q_latent
  std::vector<PackedWeight> latent_to_value;  // per head [v, latent]
  Buffer up_key;                              // fp32 [heads][nope][latent]
  MoveOnly move_only{};
};

}  // namespace ts
