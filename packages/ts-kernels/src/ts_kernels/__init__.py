"""One public kernel API: operations by family, a registry of implementations, selection that explains itself.

    >>> from ts_kernels import norm
    >>> normed = norm.rms_norm(x, weight, 1e-5)

``explain`` and ``override`` say and change which implementation serves; see docs/kernels.md.
"""

from .errors import ContractError, KernelError
from .ops import activation, attention, gemm, kv_cache, linear_attention, mla, moe, norm, quantize, rope, sampling
from .selection import override

__all__ = [
    "ContractError",
    "KernelError",
    "activation",
    "attention",
    "gemm",
    "kv_cache",
    "linear_attention",
    "mla",
    "moe",
    "norm",
    "override",
    "quantize",
    "rope",
    "sampling",
]
