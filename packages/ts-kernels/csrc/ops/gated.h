// Gated activations and GELU on vectors of fp32.
#pragma once

#include "isa/vec.h"

namespace ts::TS_ISA {

// x * Phi(x) by the tanh formula: (1 + tanh(u)) / 2 is sigmoid(2u).
TS_INLINE vf gelu_by_tanh(vf x) { return x * sigmoid(set1(1.5957691216057308f) * fma(set1(0.044715f) * x * x, x, x)); }

// x * Phi(x) = max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2, without cancellation on either side. erfc as in Abramowitz and
// Stegun 7.1.26, to 1.5e-7. It is 0 at infinity, which a large number stands for above 0: so x stays, and below comes
// NaN, as of the other gates.
TS_INLINE vf gelu_by_erf(vf x) {
  const vf size = max(zero() - x, min(set1(1e30f), x)), z = size * set1(0.70710678118654752f);
  const vf t = set1(1.0f) / fma(set1(0.3275911f), z, set1(1.0f));
  vf p = set1(1.061405429f);
  p = fma(p, t, set1(-1.453152027f));
  p = fma(p, t, set1(1.421413741f));
  p = fma(p, t, set1(-0.284496736f));
  p = fma(p, t, set1(0.254829592f));
  return max(x, zero()) - set1(0.5f) * size * p * t * exp(zero() - z * z);
}

// The vector minima give their second operand where one is NaN, so the value comes second.
TS_INLINE vf swiglu_clamped(const Activation& a, vf gate, vf up) {
  const vf limit = set1(a.limit);
  const vf g = min(limit, gate), u = max(zero() - limit, min(limit, up));
  return g * sigmoid(set1(a.alpha) * g) * (u + set1(1.0f));
}

TS_INLINE vf gated_value(const Activation& a, vf gate, vf up) {
  switch (a.gate) {
    case Gate::silu:
      return silu(gate) * up;
    case Gate::swiglu_clamped:
      return swiglu_clamped(a, gate, up);
    case Gate::gelu:
      return gelu_by_erf(gate) * up;
    case Gate::gelu_tanh:
      return gelu_by_tanh(gate) * up;
  }
  return zero();
}

}  // namespace ts::TS_ISA
