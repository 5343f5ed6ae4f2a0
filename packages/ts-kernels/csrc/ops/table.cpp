#include "ops/ops.h"

#define TS_STRING_OF(x) #x
#define TS_STRING(x) TS_STRING_OF(x)

namespace ts::TS_ISA {

extern const KernelTable table;
const KernelTable table{
    TS_STRING(TS_ISA),
    norm,
    layer_norm,
    rope,
    silu_mul,
    gated,
    gelu,
    route,
    route_softmax,
    linear,
    mlp,
    experts,
    gather,
    write_latent,
    copy_pages,
    attend_absorbed,
    attend_plain,
    sample,
    attend_paged_few,
    attend_paged_many,
    write_kv,
    argmax,
    verify,
    count_tokens,
    apply_penalties,
    apply_bias,
    apply_mask,
    logprobs,
    causal_conv,
    gated_delta,
    gated_norm,
    copy_states,
    merge,
    grouped_linear,
    combine,
};

}  // namespace ts::TS_ISA
