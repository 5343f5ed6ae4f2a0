"""Native matrix products (csrc/ops/linear.cpp, experts.cpp). Arguments have passed the public functions' checks."""

import torch
from torch import Tensor

from ... import _native, contract
from .._tensors import CODE, empty, matrix, rows
from ..quantize.formats import QuantizedWeight
from . import packing
from .weights import LinearWeight, MlpWeight, Source


def pack(weight: Source, bias: Tensor | None = None) -> _native.PackedLinear:
    """Copy ``weight`` [N, K] and ``bias`` fp32 [N] into the kernels' layout; see ``pack_matrix``."""
    packed = pack_matrix("gemm.prepare", "weight", weight)
    if bias is not None:
        packed.set_bias(bias.data_ptr())
    return packed


def pack_matrix(operation: str, argument: str, weight: Source, *, in_turn: bool = False) -> _native.PackedLinear:
    """Copy ``weight`` [N, K] into the kernels' layout; ``in_turn``: see ``native_source``.

    Raises ``ContractError`` as ``check_codes`` does.
    """
    if not isinstance(weight, QuantizedWeight):
        weight = matrix(weight)
        n, k = weight.shape
        return _native.PackedLinear(weight.data_ptr(), weight.stride(0), CODE[weight.dtype], n, k, in_turn)
    told, lent = packing.native_source(weight, in_turn=in_turn)
    packed = _native.PackedLinear.from_quantized(**told)
    del lent  # copies may be among them, which last until here
    check_codes(operation, argument, packed)
    return packed


def run_of(
    rows_: Source, first: int, total: int, into: _native.PackedLinear | None, *, in_turn: bool = False
) -> tuple[_native.Run, tuple[Tensor, ...]]:
    """The rows from ``first`` on of a weight of ``total``, still to be packed ``into`` it (None: a new one), and the
    tensors that they lie in. Those that lie in turn come all at once.
    """
    if isinstance(rows_, QuantizedWeight):
        told, lent = packing.native_source(rows_, in_turn=in_turn)
        return _native.Run.of_quantized(**told, first=first, total=total, into=into), lent
    plain = matrix(rows_)
    run = _native.Run.of_rows(
        weight=plain.data_ptr(),
        weight_stride=plain.stride(0),
        weight_dtype=CODE[plain.dtype],
        n=plain.shape[0],
        k=plain.shape[1],
        in_turn=in_turn,
        first=first,
        total=total,
        into=into,
    )
    return run, (plain,)


def check_codes(operation: str, argument: str, packed: _native.PackedLinear) -> None:
    """Raise ``ContractError`` for scales that are not finite, and FP8 codes of NaN, which kernels take for numbers."""
    if packed.has_nan:
        contract.fail(operation, argument, "finite", "FP8 codes of NaN")
    if packed.has_infinite_scale:
        contract.fail(operation, argument, "finite", "scales that are not")


def join_mlp(gate_up: _native.PackedLinear, down: _native.PackedLinear) -> _native.PackedMlp:
    """Two packed weights as one gated MLP; shares both."""
    return _native.PackedMlp(gate_up, down)


def run_packed(x: Tensor, packed: _native.PackedLinear, out_dtype: torch.dtype) -> Tensor:
    """``x @ packed.T``."""
    x = rows(x)
    tokens, n = x.shape[0], packed.n
    out = empty((tokens, n), out_dtype)
    packed.run(x.data_ptr(), x.stride(0), tokens, CODE[x.dtype], out.data_ptr(), n, CODE[out_dtype])
    return out


def unpack(packed: _native.PackedLinear, n: int, k: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The packed weight [N, K] as fp32 or rounded to bf16, without its bias."""
    out = empty((n, k), dtype)
    packed.unpack(out.data_ptr(), CODE[dtype])
    return out


def linear(x: Tensor, weight: Tensor | LinearWeight, out_dtype: torch.dtype) -> Tensor:
    """``x @ weight.T`` with a packed or a plain weight."""
    if isinstance(weight, LinearWeight):
        assert weight.packed is not None
        return run_packed(x, weight.packed, out_dtype)
    x, weight = rows(x), matrix(weight)
    (tokens, k), n = x.shape, weight.shape[0]
    out = empty((tokens, n), out_dtype)
    _native.linear(
        x.data_ptr(),
        x.stride(0),
        tokens,
        CODE[x.dtype],
        weight.data_ptr(),
        weight.stride(0),
        CODE[weight.dtype],
        n,
        k,
        out.data_ptr(),
        n,
        CODE[out_dtype],
    )
    return out


def mlp(x: Tensor, weight: MlpWeight) -> Tensor:
    """The gated MLP in one call."""
    assert weight.packed is not None
    x = rows(x)
    out = empty(x.shape, x.dtype)
    weight.packed.run(x.data_ptr(), x.stride(0), x.shape[0], CODE[x.dtype], out.data_ptr())
    return out


def gather_rows(table: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """``table[ids]`` converted to ``dtype``."""
    ids = ids.contiguous()
    (size, dim), tokens = table.shape, ids.shape[0]
    out = empty((tokens, dim), dtype)
    wide = ids.dtype == torch.int64
    _native.gather_rows(
        table.data_ptr(), CODE[table.dtype], size, dim, ids.data_ptr(), wide, tokens, out.data_ptr(), CODE[dtype]
    )
    return out


def direct_linear(x: Tensor, weight: LinearWeight, out_dtype: torch.dtype | None) -> object:
    """``linear`` in one call; NotImplemented where the weight is not packed or ``x`` is not as the kernel wants it."""
    packed = weight.packed
    if packed is None:
        return NotImplemented
    if out_dtype is None:
        return packed.direct(x, -1)
    return packed.direct(x, CODE[out_dtype]) if out_dtype in CODE else NotImplemented


def direct_mlp(x: Tensor, weight: MlpWeight) -> object:
    """``mlp`` in one call; NotImplemented where the weight is not packed or ``x`` is not as the kernel wants it."""
    packed = weight.packed
    return NotImplemented if packed is None else packed.direct(x)
