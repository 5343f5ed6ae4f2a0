"""The steps of an expert layer, one by one: permute, grouped product, combine.

Legend: T tokens, E experts, k experts a token, P = T * k pairs, N outputs, K inputs, D hidden.
"""

import torch
from torch import Tensor

from ... import contract
from ...registry import at_most
from ...selection import Operation
from .. import _register
from .._public import public
from ..quantize.formats import QuantizedWeight
from . import reference
from .permutation import Permutation
from .weights import ALL_KINDS, ExpertSource

# More is a slip, and would ask for memory by it. Places of the largest permutation still fit in int32.
_MOST_EXPERTS, _MOST_BLOCK = 2**16, 2**12
_PERMUTE = Operation(
    "moe.permute",
    dtypes=("ids",),
    dims=("E",),
    limits=(at_most("E", _MOST_EXPERTS),),
    summary="pairs sorted by expert, padded to blocks",
)
_GROUPED = Operation(
    "moe.grouped_linear",
    dtypes=("x", "weight"),
    dims=("E", "N", "K"),
    empty=("E", "N", "K"),
    summary="each pair's row times its expert",
)
_COMBINE = Operation(
    "moe.combine", dtypes=("values",), dims=("D",), empty=("D",), summary="weighted sum of each token's pairs"
)


@public
def permute(ids: Tensor, experts: int, *, block: int = 1, impl: str | None = None) -> Permutation:
    """Sort the pairs of ids int32 [T, k] by expert, as a grouped product wants them; see ``Permutation``.

    Each expert's share is padded to a multiple of ``block``. Ids outside of [0, ``experts``) are left out. Sorting is
    stable, nothing depends on the order of threads, and nothing waits for the device. ``experts`` is
    at most 2^16, ``block`` 2^12. Raises ``ContractError``.
    """
    if not 1 <= experts <= _MOST_EXPERTS:
        contract.fail(_PERMUTE.name, "experts", f"from 1 to {_MOST_EXPERTS}", experts)
    if not 1 <= block <= _MOST_BLOCK:
        contract.fail(_PERMUTE.name, "block", f"from 1 to {_MOST_BLOCK}", block)
    if impl is None:
        done = _PERMUTE.direct(ids, experts, block)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    contract.shape(_PERMUTE.name, "ids", ids, "T", "k")
    contract.dtype(_PERMUTE.name, "ids", ids, torch.int32)
    kernel = _PERMUTE.kernel(ids.device, (ids.dtype,), (experts,), "dense", impl)
    result: Permutation = kernel(ids, experts, block)
    return result


@public
def grouped_linear(x: Tensor, ids: Tensor, weight: ExpertSource, *, impl: str | None = None) -> Tensor:
    """``out[t, j] = x[t] @ weight[ids[t, j]].T``: a new [T, k, N] of x's dtype, zero where an id is outside of [0, E).

    x [T, K] fp32 or bf16, ids int32 [T, k], weight [E, N, K]: a format of ``ts_kernels.quantize``, or an fp32 or bf16
    tensor. Sums are fp32. The weight is brought to the kernel's form in each call, which is free for tensors and FP8;
    ``experts`` does it once. For rows that differ by choice (down), give them as [T * k, K] and ids as [T * k, 1].
    Raises ``ContractError``.
    """
    operation = _GROUPED.name
    if len(weight.shape) != 3:
        contract.fail(operation, "weight", "[E, N, K]", f"{type(weight).__name__} {list(weight.shape)}")
    experts, n, k = weight.shape
    contract.shape(operation, "x", x, "T", k)
    contract.shape(operation, "ids", ids, x.shape[0], "k")
    contract.dtype(operation, "x", x, *contract.FLOATS)
    contract.dtype(operation, "ids", ids, torch.int32)
    contract.device(operation, x, ids=ids)
    if weight.device != x.device:
        contract.fail(operation, "weight", f"on {x.device} like x", f"one on {weight.device}")
    kind, dtype = "dense", torch.bfloat16
    if isinstance(weight, QuantizedWeight):
        kind = weight.kind
        weight.readable(operation, "weight")
    else:
        dtype = weight.dtype
    kernel = _GROUPED.kernel(x.device, (x.dtype, dtype), (experts, n, k), kind, impl)
    result: Tensor = kernel(x, ids, weight)
    return result


@public
def combine(
    values: Tensor,
    weights: Tensor,
    ids: Tensor,
    experts: int,
    *,
    base: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """``base + sum_j weights[:, j] * values[:, j]``: a new [T, D] of the values' dtype, summed in fp32 in order of j.

    values [T, k, D] fp32 or bf16 contiguous, weights fp32 [T, k], ids int32 [T, k]: a pair whose id is outside of
    [0, ``experts``) counts as zero and is not read. ``base`` [T, D] of the values' dtype. Raises ``ContractError``.
    """
    if impl is None:
        done = _COMBINE.direct(values, weights, ids, experts, base)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    operation = _COMBINE.name
    contract.shape(operation, "values", values, "T", "k", "D")
    tokens, k, width = values.shape
    contract.shape(operation, "weights", weights, tokens, k)
    contract.shape(operation, "ids", ids, tokens, k)
    contract.dtype(operation, "values", values, *contract.FLOATS)
    contract.dtype(operation, "weights", weights, torch.float32)
    contract.dtype(operation, "ids", ids, torch.int32)
    contract.contiguous(operation, "values", values)
    contract.device(operation, values, weights=weights, ids=ids)
    if base is not None:
        contract.shape(operation, "base", base, tokens, width)
        contract.dtype(operation, "base", base, values.dtype)
        contract.device(operation, values, base=base)
    kernel = _COMBINE.kernel(values.device, (values.dtype,), (width,), "dense", impl)
    result: Tensor = kernel(values, weights, ids, experts, base)
    return result


_IDS = {"ids": frozenset({torch.int32})}
_register.reference(_PERMUTE, reference.permute, _IDS)
_register.native(_PERMUTE, "moe.pieces_cpu:permute", _IDS, direct="moe.pieces_cpu:direct_permute")
_register.triton(_PERMUTE, "moe.triton.permute:permute", _IDS)
_register.reference(_GROUPED, reference.grouped_linear, {"x": contract.FLOATS}, frozenset(ALL_KINDS))
_register.native(
    _GROUPED,
    "moe.pieces_cpu:grouped_linear",
    {"x": contract.FLOATS, "weight": contract.FLOATS},
    formats=frozenset(ALL_KINDS),
)
_register.triton(
    _GROUPED,
    "moe.triton.experts:grouped_linear",
    {"x": contract.FLOATS, "weight": contract.FLOATS},
    formats=frozenset(ALL_KINDS),
)
_register.reference(_COMBINE, reference.combine, {"values": contract.FLOATS})
_register.native(
    _COMBINE,
    "moe.pieces_cpu:combine",
    {"values": contract.FLOATS},
    direct="moe.pieces_cpu:direct_combine",
)
_register.triton(_COMBINE, "moe.triton.combine:combine", {"values": contract.FLOATS})
