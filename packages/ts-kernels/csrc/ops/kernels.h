// The operations' arguments, and the table of one instruction set's implementations.
#pragma once

#include "common/types.h"
#include "layout/packed.h"
#include "parallel/pool.h"

namespace ts {

struct NormArgs {
  const void* x;
  i64 x_stride;
  void* residual;  // null: plain RMS norm
  const void* weight;
  DType weight_dtype;
  float eps;
  void* out;
  i64 rows, dim;
  DType dtype;
};

struct RopeArgs {
  void* x;
  i64 token_stride, head_stride, tokens, heads, head_dim, rope_dim;
  const float* cos_sin;
  const i64* positions;
  DType dtype;
};

struct SiluMulArgs {
  const void* gate_up;
  i64 stride;
  void* out;
  i64 rows, inter;
  DType dtype;
};

struct RouteArgs {
  const float* logits;
  i64 stride, rows, experts;
  const float* bias;
  i64 top_k, n_group, topk_group;
  float scale;
  bool normalize;
  float* weights;
  i32* ids;
};

struct LinearArgs {
  const void* x;
  i64 x_stride, rows;
  DType dtype;
  const WeightView* weight;
  void* out;
  i64 out_stride;
  DType out_dtype;
};

struct MlpArgs {
  const void* x;
  i64 x_stride, rows;
  DType dtype;
  const WeightView* gate_up;
  const WeightView* down;
  void* out;
};

struct ExpertsArgs {
  const void* x;
  i64 x_stride, rows;
  DType dtype;
  const Experts* experts;
  const float* weights;
  const i32* ids;
  i64 top_k;
  const WeightView* shared_gate_up;  // null: no shared expert
  const WeightView* shared_down;
  void* out;
};

struct GatherArgs {
  const void* table;
  DType table_dtype;
  i64 dim;
  const void* ids;
  bool ids_are_int64;
  i64 rows;
  void* out;
  DType dtype;
};

struct LatentArgs {
  const void* kv_a;
  i64 kv_stride, tokens, latent, rope_dim;
  const void* norm_weight;
  DType norm_dtype;
  float eps;
  const float* cos_sin;
  const i64* positions;
  const i64* slots;
  void* cache;
  DType cache_dtype, dtype;
};

struct AttentionArgs {
  const KvProjection* projection;
  const void* q;
  i64 q_stride, rows;
  const i32* cu_q;  // null: one query a row
  DType dtype;
  const void* cache;
  DType cache_dtype;
  i64 page_size, rope_dim;
  const i32* block_tables;
  i64 block_table_stride;
  const i32* seq_lens;
  float scale;
  void* out;
};

// Attention over separate caches [pages][page_size][kv_heads][d or v]; a page is dense.
struct PagedArgs {
  const void* q;
  i64 q_stride, rows;
  const i32* cu_q;  // null: `step` queries in every row
  i64 step;
  DType dtype;
  const void* k_cache;
  const void* v_cache;
  DType cache_dtype;
  i64 k_page, v_page;  // elements from page to page
  i64 page_size, heads, kv_heads, d, v;
  const i32* block_tables;
  i64 block_table_stride;
  const i32* seq_lens;
  const float* sinks;              // null: none
  float scale, soft_cap, v_scale;  // soft_cap 0: none
  i64 window;                      // 0: every key
  void* out;
  float* lse;
};

// Keys or values: `width` is that of all heads of a token, which is divided by `scale`.
struct KvPart {
  const void* x;
  i64 stride, width;
  void* cache;
  i64 page_stride;
  float scale;
};

struct KvWriteArgs {
  i64 tokens;
  const i64* slots;
  i64 page_size;
  KvPart keys, values;
  DType dtype, cache_dtype;
};

struct SampleArgs {
  const float* logits;
  i64 stride, rows, vocab;
  const float* temperature;
  const i32* top_k;
  const float* top_p;
  const i64* seeds;
  const i64* positions;
  i32* out;
};

struct KernelTable {
  const char* name;
  void (*norm)(Pool&, const NormArgs&);
  void (*rope)(Pool&, const RopeArgs&);
  void (*silu_mul)(Pool&, const SiluMulArgs&);
  void (*route)(Pool&, const RouteArgs&);
  void (*linear)(Pool&, const LinearArgs&);
  void (*mlp)(Pool&, const MlpArgs&);
  void (*experts)(Pool&, const ExpertsArgs&);
  void (*gather)(Pool&, const GatherArgs&);
  void (*write_latent)(Pool&, const LatentArgs&);
  void (*attend_absorbed)(Pool&, const AttentionArgs&);
  void (*attend_plain)(Pool&, const AttentionArgs&);
  void (*sample)(Pool&, const SampleArgs&);
  void (*attend_paged_few)(Pool&, const PagedArgs&);
  void (*attend_paged_many)(Pool&, const PagedArgs&);
  void (*write_kv)(Pool&, const KvWriteArgs&);
};

}  // namespace ts
