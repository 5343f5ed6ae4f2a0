// Arguments of the steps that a caller takes one by one: merging partial attention, and the parts of an expert layer.
#pragma once

#include "layout/packed.h"

namespace ts {

enum class PartType : int { f32 = 0, bf16 = 1, f16 = 2 };

// Partial outputs outs [parts][tokens][heads * v] with their log-sum-exps [parts][tokens][heads].
struct MergeArgs {
  const void* outs;
  i64 part_stride, token_stride;  // elements
  PartType type;
  const float* lses;
  i64 lse_part_stride, lse_token_stride;
  i64 parts, tokens, heads, v;
  void* out;
  float* lse;
};

struct CombineArgs {
  const void* values;  // [tokens][top_k][dim]
  DType dtype;
  i64 tokens, top_k, dim, experts;
  const float* weights;
  const i32* ids;
  const void* base;  // null: none
  i64 base_stride;
  void* out;
};

// An expert's row-major matrix [n, k]: codes or numbers, scales and zero points [n, k / group]. No codes: unused.
struct ExpertSource {
  const char* codes;
  const void* scales;
  const float* zeros;
};

struct GroupedArgs {
  const void* x;
  i64 x_stride;
  DType dtype;
  i64 tokens, top_k, experts;
  const i32* ids;               // [tokens][top_k]
  const i32* pairs;             // the pairs of all experts, see sort_pairs
  const i32* starts;            // [experts + 1] where each expert's begin
  const ExpertSource* sources;  // [experts]
  WeightView form;              // format, n, k, group and scale type of all; it holds no words
  i64 row_bytes;                // from row to row of the codes
  u32 flip;                     // see QuantizedSource
  bool* not_finite;             // set where an FP8 code is NaN
  void* out;                    // [tokens][top_k][n]
};

}  // namespace ts
