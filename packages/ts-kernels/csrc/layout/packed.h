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

class Pool;

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
  i64 group = 0;                 // k that share a scale, a multiple of 32 (FP4: or 16)
  const float* zeros = nullptr;  // int4_zero: as the scales
  const float* bias = nullptr;   // [n] what is added to each row of a product
};

// How checkpoints store scales; e8m0 are powers of two.
enum class ScaleType : int { f32, bf16, f16, e4m3, e8m0 };

// Row-major weights [n, k] as they come. Codes are whole bytes a row, four of which are combined with `flip` (exclusive
// or) to be two's complement. Each `scale_rows` rows share a row of scales [.., ceil(k / group)], which `row_scales`
// [n] multiply. Zero points [ceil(n / 8), ceil(k / group)] are nibbles, eight rows to a word.
struct QuantizedSource {
  Format format;
  i64 n, k;
  bool in_turn;  // rows of two matrices lie in turn: those of the first are packed first
  const unsigned char* codes;
  i64 code_stride;  // bytes between rows
  u32 flip;
  const void* scales;
  ScaleType scale_type;
  i64 scale_stride, scale_rows, group;
  const float* row_scales;
  i64 row_scale_stride;
  const u32* zeros;
  i64 zero_stride;
};

// A plain weight: element (row, column) lies at row * row_stride + column * column_stride, one of which is 1.
struct DenseSource {
  const void* values;
  i64 row_stride, column_stride;
  DType dtype;
  i64 n, k;
  bool in_turn = false;
};

class PackedWeight {
 public:
  PackedWeight() = default;
  // Shared among the threads of `pool`, where there is one.
  static PackedWeight dense(Pool* pool, const DenseSource& source);
  static PackedWeight quantized(Pool* pool, const QuantizedSource& source);

  // Memory for `n` rows, which `fill` packs a run at a time, in any order and by several threads at once. `like` is any
  // run; a run begins at a multiple of kPanel rows, and all runs are of one type, of scales too.
  static PackedWeight room(const DenseSource& like, i64 n);
  static PackedWeight room(const QuantizedSource& like, i64 n);
  void fill(Pool* pool, const DenseSource& source, i64 first_row);
  void fill(Pool* pool, const QuantizedSource& source, i64 first_row);

  void set_bias(const float* bias);
  void unpack(void* out, DType dtype) const;  // [n, k] in fp32 or rounded to bf16, without the bias
  const WeightView& view() const { return view_; }
  bool has_nan() const { return has_nan_; }                        // among codes of FP8, which the kernels do not know
  bool has_infinite_scale() const { return has_infinite_scale_; }  // or one of NaN
  i64 nbytes() const { return static_cast<i64>(words_.bytes() + scales_.bytes() + zeros_.bytes() + bias_.bytes()); }

 private:
  PackedWeight(Format format, i64 n, i64 k);
  Buffer words_, scales_, zeros_, bias_;
  WeightView view_{};
  bool has_nan_ = false, has_infinite_scale_ = false;
};

struct Experts {
  std::vector<WeightView> gate_up, down;
  i64 inter = 0, dim = 0;
  Activation activation{};
  std::vector<float> gate_up_bias, down_bias;  // [experts][2 * inter], [experts][dim]; empty: none
};

struct KvProjection {
  i64 heads, nope, v, latent;
  std::vector<PackedWeight> query_to_latent;  // per head [latent, nope]: q_nope -> q_latent
  std::vector<PackedWeight> latent_to_value;  // per head [v, latent]
  Buffer up_key;                              // fp32 [heads][nope][latent]
  MoveOnly move_only{};
};

}  // namespace ts
