// One instruction set's kernels; included by the files in ops/ only.
#pragma once

#include "isa/vec.h"
#include "ops/kernels.h"

namespace ts::TS_ISA {

void norm(Pool&, const NormArgs&);
void layer_norm(Pool&, const LayerNormArgs&);
void rope(Pool&, const RopeArgs&);
void silu_mul(Pool&, const SiluMulArgs&);
void gated(Pool&, const GatedArgs&);
void gelu(Pool&, const GeluArgs&);
void route(Pool&, const RouteArgs&);
void route_softmax(Pool&, const RouteSoftmaxArgs&);
void linear(Pool&, const LinearArgs&);
void mlp(Pool&, const MlpArgs&);
void experts(Pool&, const ExpertsArgs&);
void gather(Pool&, const GatherArgs&);
void write_latent(Pool&, const LatentArgs&);
void copy_pages(Pool&, const CopyArgs&);
void attend_absorbed(Pool&, const AttentionArgs&);
void attend_plain(Pool&, const AttentionArgs&);
void sample(Pool&, const SampleArgs&);
void attend_paged_few(Pool&, const PagedArgs&);   // rows of up to 8 queries
void attend_paged_many(Pool&, const PagedArgs&);  // rows of more
void write_kv(Pool&, const KvWriteArgs&);
void argmax(Pool&, const ArgmaxArgs&);
void verify(Pool&, const VerifyArgs&);
void count_tokens(Pool&, const CountArgs&);
void apply_penalties(Pool&, const PenaltyArgs&);
void apply_bias(Pool&, const BiasArgs&);
void apply_mask(Pool&, const MaskArgs&);
void logprobs(Pool&, const LogprobsArgs&);
void causal_conv(Pool&, const ConvArgs&);
void gated_delta(Pool&, const DeltaArgs&);
void gated_norm(Pool&, const GatedNormArgs&);
void copy_states(Pool&, const StateCopyArgs&);
void merge(Pool&, const MergeArgs&);
void grouped_linear(Pool&, const GroupedArgs&);
void combine(Pool&, const CombineArgs&);

// Runs body(task) for each task of [0, tasks); see Pool::run for `flops`.
template <class Body>
TS_INLINE void parallel(Pool& pool, i64 tasks, i64 flops, const Body& body) {
  run_loop(pool, {[](const void* context, i64 task) { (*static_cast<const Body*>(context))(task); }, &body, tasks},
           flops);
}

}  // namespace ts::TS_ISA
