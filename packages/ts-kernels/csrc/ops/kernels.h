// The operations' arguments, and the table of one instruction set's implementations.
#pragma once

#include "common/types.h"
#include "layout/packed.h"
#include "ops/pieces.h"
#include "parallel/loop.h"

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

struct LayerNormArgs {
  const void* x;
  i64 x_stride;
  const void* weight;
  const void* bias;
  DType weight_dtype;
  float eps;
  void* out;
  i64 rows, dim;
  DType dtype;
};

struct RopeArgs {
  void* x;
  i64 token_stride, head_stride, tokens, heads;
  i64 first, rope_dim;  // the columns of a head that turn
  const float* cos_sin;
  const i64* positions;
  DType dtype;
  bool halves = false;  // pairs (i, i + rope_dim / 2) instead of (2i, 2i + 1)
  // Set: pair i turns by column pair_column[i] of a table with `table_dim` columns, at the position that the token has
  // on axis pair_axis[i]; positions are [axes][tokens].
  const i32* pair_axis = nullptr;
  const i32* pair_column = nullptr;
  i64 table_dim = 0;
};

// Pages of `bytes` bytes each.
struct CopyArgs {
  const void* from;
  void* to;
  const i64* from_pages;
  const i64* to_pages;
  i64 count, bytes;
};

struct SiluMulArgs {
  const void* gate_up;
  i64 stride;
  void* out;
  i64 rows, inter;
  DType dtype;
};

// act(gate) * up, gate and up as halves of a row or side by side.
struct GatedArgs {
  const void* gate_up;
  i64 stride;
  void* out;
  i64 rows, inter;
  DType dtype;
  Activation activation;
  bool interleaved;
};

struct GeluArgs {
  const void* x;
  i64 stride;
  void* out;
  i64 rows, dim;
  DType dtype;
  bool tanh;
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

struct RouteSoftmaxArgs {
  const float* logits;
  i64 stride, rows, experts, top_k;
  float scale;
  bool normalize;  // weights of a row's chosen experts sum to `scale`
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
  float cache_scale = 1;  // of an e4m3 cache: what is stored is a number divided by this
};

struct AttentionArgs {
  const KvProjection* projection;
  const void* q;
  i64 q_stride, rows;
  const i32* cu_q;  // null: q_len queries a row
  DType dtype;
  const void* cache;
  DType cache_dtype;
  i64 page_size, rope_dim;
  const i32* block_tables;
  i64 block_table_stride, block_table_width;  // from row to row, and of a row
  const i32* seq_lens;
  float scale;
  void* out;
  i64 q_len = 1;          // queries a row where cu_q is null
  float cache_scale = 1;  // of an e4m3 cache: a number is what is stored times this
  float* lse = nullptr;   // absorbed form: log-sum-exp of each token and head, where wanted
  // Set: the caller absorbs. q is [tokens][heads][latent], this its rotary part, and the result stays in the latents.
  const void* q_rope = nullptr;
  i64 q_rope_stride = 0;
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
  i64 block_table_stride, block_table_width;  // from row to row, and of a row
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

// Parameters of a draw, one each a row.
struct DrawArgs {
  const float* temperature;
  const i32* top_k;
  const float* top_p;
  const i64* seeds;
  const i64* positions;
  const float* min_p;  // null: off
};

struct SampleArgs {
  const float* logits;
  i64 stride, rows, vocab;
  DrawArgs draw;
  i32* out;
};

struct ArgmaxArgs {
  const void* logits;
  DType dtype;
  i64 stride, rows, vocab;
  i32* out;
};

// Drafts of `places - 1` tokens a row; see verify.cpp.
struct VerifyArgs {
  const float* logits;
  i64 rows, places, vocab;
  const i32* drafts;
  const i32* counts;
  const float* draft_probs;  // null: greedy drafts
  DrawArgs draw;
  i32* accepted;
  i32* bonus;
};

struct CountArgs {
  u16* counts;
  i64 vocab;
  const i64* slots;
  const i32* tokens;
  i64 token_stride, rows, tokens_per_row;
  bool prompt;
};

struct PenaltyArgs {
  float* logits;
  i64 stride, rows, vocab;
  const u16* counts;
  const i64* slots;
  const float* repetition;
  const float* presence;
  const float* frequency;
};

struct BiasArgs {
  float* logits;
  i64 stride, entries;
  const i32* rows;
  const i32* tokens;
  const float* values;
};

struct MaskArgs {
  float* logits;
  i64 stride, rows, vocab;
  const u32* mask;
  const i64* lines;  // null: a line a row
};

struct LogprobsArgs {
  const float* logits;
  i64 stride, rows, vocab;
  const i32* tokens;
  i64 n;
  float* chosen;
  i32* ranks;
  i32* top_ids;
  float* top_values;
};

struct ConvArgs {
  const void* x;
  i64 x_stride;
  DType dtype;
  const void* weight;  // [channels][width]
  DType weight_dtype;
  float* states;  // [slots][width - 1][channels]
  const i64* slots;
  const i32* cu_q;    // null: one token a row
  const bool* fresh;  // null: every row continues its state
  i64 rows, channels, width;
  void* out;
};

struct DeltaArgs {
  const void *q, *k, *v;
  i64 q_stride, k_stride, v_stride;  // of tokens; heads are dense
  DType dtype;
  const void *a, *b;
  i64 a_stride, b_stride;
  DType gate_dtype;
  const float *a_log, *dt_bias;
  float* states;  // [slots][value_heads][key_dim][value_dim]
  const i64* slots;
  const i32* cu_q;    // null: one token a row
  const bool* fresh;  // null: every row continues its state
  i64 rows, key_heads, value_heads, key_dim, value_dim;
  float scale;
  void* out;
};

struct GatedNormArgs {
  const void* x;
  i64 x_stride;
  const void* z;
  i64 z_stride;
  const void* weight;
  DType weight_dtype;
  float eps;
  void* out;
  i64 rows, dim;
  DType dtype;
};

struct StateCopyArgs {
  const char* source;
  char* target;
  const i64* from;
  const i64* to;
  i64 count, bytes;
};

struct KernelTable {
  const char* name;
  void (*norm)(Pool&, const NormArgs&);
  void (*layer_norm)(Pool&, const LayerNormArgs&);
  void (*rope)(Pool&, const RopeArgs&);
  void (*silu_mul)(Pool&, const SiluMulArgs&);
  void (*gated)(Pool&, const GatedArgs&);
  void (*gelu)(Pool&, const GeluArgs&);
  void (*route)(Pool&, const RouteArgs&);
  void (*route_softmax)(Pool&, const RouteSoftmaxArgs&);
  void (*linear)(Pool&, const LinearArgs&);
  void (*mlp)(Pool&, const MlpArgs&);
  void (*experts)(Pool&, const ExpertsArgs&);
  void (*gather)(Pool&, const GatherArgs&);
  void (*write_latent)(Pool&, const LatentArgs&);
  void (*copy_pages)(Pool&, const CopyArgs&);
  void (*attend_absorbed)(Pool&, const AttentionArgs&);
  void (*attend_plain)(Pool&, const AttentionArgs&);
  void (*sample)(Pool&, const SampleArgs&);
  void (*attend_paged_few)(Pool&, const PagedArgs&);
  void (*attend_paged_many)(Pool&, const PagedArgs&);
  void (*write_kv)(Pool&, const KvWriteArgs&);
  void (*argmax)(Pool&, const ArgmaxArgs&);
  void (*verify)(Pool&, const VerifyArgs&);
  void (*count_tokens)(Pool&, const CountArgs&);
  void (*apply_penalties)(Pool&, const PenaltyArgs&);
  void (*apply_bias)(Pool&, const BiasArgs&);
  void (*apply_mask)(Pool&, const MaskArgs&);
  void (*logprobs)(Pool&, const LogprobsArgs&);
  void (*causal_conv)(Pool&, const ConvArgs&);
  void (*gated_delta)(Pool&, const DeltaArgs&);
  void (*gated_norm)(Pool&, const GatedNormArgs&);
  void (*copy_states)(Pool&, const StateCopyArgs&);
  void (*merge)(Pool&, const MergeArgs&);
  void (*grouped_linear)(Pool&, const GroupedArgs&);
  void (*combine)(Pool&, const CombineArgs&);
};

}  // namespace ts
