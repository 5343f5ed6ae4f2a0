"""Matrix products. Legend: T tokens, K inputs, N outputs, I intermediate, D hidden, V table rows."""

import torch
from torch import Tensor

from ... import contract, settings
from ...registry import KernelSpec
from ...selection import Operation
from .. import _register
from .._public import public
from ..quantize.formats import QuantizedWeight
from . import reference
from .builder import RUN, LinearBuilder, Runs
from .weights import DENSE, LinearWeight, MlpWeight, Source, checked_bias, checked_source, forms

__all__ = [
    "RUN",
    "LinearBuilder",
    "LinearWeight",
    "MlpWeight",
    "Runs",
    "Source",
    "gather_rows",
    "linear",
    "mlp",
    "prepare",
    "prepare_mlp",
]

_LINEAR = Operation("gemm.linear", dtypes=("x", "weight", "out"), dims=("N", "K"), summary="x @ weight.T")
_MLP = Operation("gemm.mlp", dtypes=("x", "weight"), dims=("D", "I"), summary="down(silu(gate(x)) * up(x)) in one call")
_GATHER = Operation("gemm.gather_rows", dtypes=("table", "ids", "out"), dims=("D",), summary="table[ids] (embedding)")
_HELD = frozenset({"dense", "packed", "dense+packed"})
_QUANTIZED = forms("source", "packed", "source+packed")


@public
def prepare(weight: Source, *, bias: Tensor | None = None, keep_source: bool = False) -> LinearWeight:
    """Bring ``weight`` [N, K], fp32, bf16 or quantized (``ts_kernels.quantize``), to the form that the kernel reads.

    ``bias`` [N], fp32 or bf16, is added to every product before it is rounded. The result does not refer to ``weight``
    where it is packed, so the caller may drop it. Scales must be finite, and FP8 codes not NaN where a kernel packs
    them; plain weights may hold any numbers, which products pass on. Raises ``ContractError``.
    """
    return _prepare("gemm.prepare", "weight", weight, bias, keep_source)


def _prepare(
    operation: str, argument: str, weight: Source, bias: Tensor | None = None, keep_source: bool = False
) -> LinearWeight:
    weight = checked_source(operation, argument, weight)
    kind, dtype = (weight.kind, torch.float32) if isinstance(weight, QuantizedWeight) else (DENSE, weight.dtype)
    n, k = weight.shape
    bias = checked_bias(operation, bias, n, weight.device)
    packs = _spec(weight.device, dtype, (n, k), kind).prepare
    if packs is None and isinstance(weight, QuantizedWeight):
        weight.check_scales(operation, argument)
    packed = None if packs is None else packs(weight, bias)
    keep = packed is None or keep_source or settings.current().keep_source
    return LinearWeight(n, k, kind, dtype, weight.device, weight if keep else None, packed, bias)


def packs_in_runs(device: torch.device, dtype: torch.dtype, sizes: tuple[int, int], kind: str) -> bool:
    """Whether the kernel of such a weight packs it a run of rows at a time."""
    return _spec(device, dtype, sizes, kind).in_runs


def _spec(device: torch.device, dtype: torch.dtype, sizes: tuple[int, int], kind: str) -> KernelSpec:
    """The kernel that a weight is prepared for."""
    format = "dense+packed" if kind == DENSE else f"{kind}:source+packed"
    return _LINEAR.choose(device, (torch.float32, dtype, torch.float32), sizes, format)


@public
def prepare_mlp(gate_up: Source | LinearWeight, down: Source | LinearWeight) -> MlpWeight:
    """Join gate_up [2I, D] (gate rows, then up rows) and down [D, I] for ``mlp`` and for ``moe.experts(shared=)``.

    Prepared weights are shared, not copied. Raises ``ContractError``.
    """
    operation = "gemm.prepare_mlp"
    first = gate_up if isinstance(gate_up, LinearWeight) else _prepare(operation, "gate_up", gate_up)
    second = down if isinstance(down, LinearWeight) else _prepare(operation, "down", down)
    joined = MlpWeight(first, second, None)
    if first.packed is None or second.packed is None:
        return joined
    from . import cpu

    return MlpWeight(first, second, cpu.join_mlp(first.packed, second.packed))


@public
def linear(
    x: Tensor, weight: Tensor | LinearWeight, *, out_dtype: torch.dtype | None = None, impl: str | None = None
) -> Tensor:
    """``x @ weight.T + bias``: x [T, K] fp32 or bf16, rows may be spaced, weight [N, K] plain or prepared (with its
    bias, if it has one); gives a dense [T, N].

    ``out_dtype`` is x's unless given (fp32 logits of bf16 activations). Sums are fp32. A plain weight serves calls that
    happen once; prepare one that is used again. Raises ``ContractError``.
    """
    if impl is None and type(weight) is LinearWeight:
        done = _LINEAR.direct(x, weight, out_dtype)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    if len(weight.shape) != 2 or 0 in weight.shape:
        contract.fail("gemm.linear", "weight", "[N, K] with N and K at least 1", weight)
    n, k = weight.shape
    if x.dim() != 2 or x.shape[1] != k or x.device != weight.device:
        contract.shape("gemm.linear", "x", x, "T", k)
        contract.fail("gemm.linear", "x", f"on {weight.device} like the weight", x)
    out = out_dtype or x.dtype
    format = "dense" if isinstance(weight, Tensor) else weight.format
    kernel = _LINEAR.kernel(x.device, (x.dtype, weight.dtype, out), (n, k), format, impl)
    result: Tensor = kernel(x, weight, out)
    return result


@public
def mlp(x: Tensor, weight: MlpWeight, *, impl: str | None = None) -> Tensor:
    """``down(silu(gate(x)) * up(x))``: x [T, D] fp32 or bf16, gives a new [T, D] of its dtype.

    One call where the kernel fuses it; the intermediate stays fp32. Raises ``ContractError``.
    """
    if impl is None:
        done = _MLP.direct(x, weight)
        if done is not NotImplemented:
            return done  # type: ignore[no-any-return]
    gate_up = weight.gate_up
    if x.dim() != 2 or x.shape[1] != gate_up.k or x.device != gate_up.device:
        contract.shape("gemm.mlp", "x", x, "T", gate_up.k)
        contract.fail("gemm.mlp", "x", f"on {gate_up.device} like the weight", x)
    kernel = _MLP.kernel(x.device, (x.dtype, gate_up.dtype), (gate_up.k, gate_up.n // 2), weight.format, impl)
    result: Tensor = kernel(x, weight)
    return result


@public
def gather_rows(table: Tensor, ids: Tensor, *, dtype: torch.dtype | None = None, impl: str | None = None) -> Tensor:
    """Rows of ``table`` [V, D] for ``ids`` int32 or int64 [T]: dense [T, D] of ``dtype`` (the table's unless given).

    An id outside of [0, V) raises ``ContractError`` on a CPU; on other devices in debug mode only.
    """
    operation = "gemm.gather_rows"
    if table.dim() != 2 or ids.dim() != 1 or table.device != ids.device or not table.is_contiguous():
        contract.shape(operation, "table", table, "V", "D")
        contract.shape(operation, "ids", ids, "T")
        contract.contiguous(operation, "table", table)
        contract.device(operation, table, ids=ids)
    if table.shape[1] == 0:
        contract.fail(operation, "table", "[V, D] with D at least 1", table)
    if ids.dtype not in (torch.int32, torch.int64):
        contract.dtype(operation, "ids", ids, torch.int32, torch.int64)
    if contract.debug():
        contract.in_range(operation, "ids", ids, 0, table.shape[0])
    out = dtype or table.dtype
    kernel = _GATHER.kernel(table.device, (table.dtype, ids.dtype, out), (table.shape[1],), "dense", impl)
    result: Tensor = kernel(table, ids, out)
    return result


_REALS = {"x": contract.REALS, "weight": contract.REALS}
_register.reference(_LINEAR, reference.linear, {**_REALS, "out": contract.REALS}, _HELD | _QUANTIZED)
_register.reference(_MLP, reference.mlp, _REALS, _HELD | _QUANTIZED)
_register.reference(_GATHER, reference.gather_rows, {"ids": frozenset({torch.int32, torch.int64})})
_register.native(
    _LINEAR,
    "gemm.cpu:linear",
    {"x": contract.FLOATS, "weight": contract.FLOATS, "out": contract.FLOATS},
    formats=_HELD | forms("packed", "source+packed"),
    prepare="gemm.cpu:pack",
    in_runs=True,
    direct="gemm.cpu:direct_linear",
)
_register.native(
    _MLP,
    "gemm.cpu:mlp",
    {"x": contract.FLOATS, "weight": contract.FLOATS},
    formats=frozenset({"packed", "dense+packed"}) | forms("packed", "source+packed"),
    direct="gemm.cpu:direct_mlp",
)
_register.native(_GATHER, "gemm.cpu:gather_rows", {"table": contract.FLOATS, "out": contract.FLOATS})
_register.triton(
    _LINEAR,
    "gemm.triton:linear",
    {"x": contract.FLOATS, "weight": contract.FLOATS, "out": contract.FLOATS},
    formats=frozenset({"dense", "dense+packed"}) | forms("source", "source+packed"),
)
_register.triton(
    _MLP,
    "gemm.triton:mlp",
    {"x": contract.FLOATS, "weight": contract.FLOATS},
    formats=frozenset({"dense", "dense+packed"}) | forms("source", "source+packed"),
)
_register.triton(_GATHER, "gemm.triton:gather_rows", {"table": contract.FLOATS, "out": contract.FLOATS})
