// Weights in the layout of the matrix kernels.
//
// Columns (output features) come in panels of 16. Within a panel, word [u][c] (32 bits) holds, for column c, the values
// of one unit of consecutive k: 1 fp32, 2 bf16 (lower k in the low half) or 8 INT4 (nibble j is k = 8u + j, two's
// complement). One vector load so feeds 16 columns, whatever the format, and widening is a shift or a mask; the bf16
// form is also what AMX's TDPBF16PS wants of its second operand. Columns and k beyond the weight are zero.
#pragma once

#include <vector>

#include "common/buffer.h"
#include "common/types.h"

namespace ts {

constexpr i64 kPanel = 16;
constexpr i64 kGroup = 32;  // k values that share an INT4 scale

enum class Format : int { f32, bf16, int4 };

TS_INLINE i64 unit_of(Format f) { return f == Format::f32 ? 1 : f == Format::bf16 ? 2 : 8; }

// A view of packed weights [n, k]; the owner outlives it.
struct WeightView {
  Format format;
  i64 n, k;
  const u32* words;
  i64 panel_stride;   // words between panels
  i64 row_stride;     // words between units
  const u16* scales;  // int4: bf16 [panel][k / 32][16]
  i64 scale_panel_stride;
};

class PackedWeight {
 public:
  PackedWeight() = default;
  static PackedWeight dense(const void* weight, i64 row_stride, i64 column_stride, DType dtype, i64 n, i64 k);
  static PackedWeight int4(const u32* packed, const u16* scales, i64 n, i64 k);

  const WeightView& view() const { return view_; }
  i64 nbytes() const { return static_cast<i64>(words_.bytes() + scales_.bytes()); }

 private:
  PackedWeight(Format format, i64 n, i64 k);
  Buffer words_, scales_;
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
