// The weighted sum of each token's pairs, in the order of its choices.
#include "ops/ops.h"

namespace ts::TS_ISA {

void combine(Pool& pool, const CombineArgs& a) {
  parallel(pool, a.tokens, a.tokens * a.top_k * a.dim, [&](i64 token) {
    void* out = at(a.out, a.dtype, token * a.dim);
    for (i64 i = 0; i < a.dim; i += W) {
      const i64 n = a.dim - i;
      vf total = a.base ? load_as_float(at(a.base, a.dtype, token * a.base_stride), a.dtype, i, n) : zero();
      for (i64 pair = token * a.top_k; pair < (token + 1) * a.top_k; ++pair)
        if (a.ids[pair] >= 0 && a.ids[pair] < a.experts)
          total = fma(set1(a.weights[pair]), load_as_float(at(a.values, a.dtype, pair * a.dim), a.dtype, i, n), total);
      store_as(out, a.dtype, i, total, n);
    }
  });
}

}  // namespace ts::TS_ISA
