"""Cases of ts_kernels.gemm."""

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.nn import functional as F

from ..ops import gemm, quantize
from .common import Case, Maker, Run, Sizes, nbytes


def cases(s: Sizes, make: Maker) -> Iterator[Case]:
    for variant, n, k in (("bf16", s.hidden, s.heads * s.v), ("bf16, vocabulary", s.vocab, s.hidden)):
        x, weight = make(s.rows, k), make.weight(n, k)
        prepared, baseline = gemm.prepare(weight, keep_source=True), weight.to(x.dtype)
        moved, flops = nbytes(x, weight) + s.rows * n * x.element_size(), 2 * s.rows * n * k
        theirs = _torch_linear(x, baseline)
        yield Case("gemm.linear", _linear(x, prepared), theirs, bytes=moved, flops=flops, variant=variant)
    yield from _quantized(s, make)
    x = make(s.rows, s.hidden)
    gate_up, down = make.weight(2 * s.inter, s.hidden), make.weight(s.hidden, s.inter)
    mlp = gemm.prepare_mlp(gemm.prepare(gate_up, keep_source=True), gemm.prepare(down, keep_source=True))
    wide_up, wide_down = gate_up.to(x.dtype), down.to(x.dtype)

    def plain() -> Tensor:
        gate, up = F.linear(x, wide_up).chunk(2, -1)
        return F.linear(F.silu(gate) * up, wide_down)

    yield Case(
        "gemm.mlp",
        lambda impl: (gemm.mlp(x, mlp, impl=impl),),
        plain,
        bytes=nbytes(gate_up, down, x, x),
        flops=6 * s.rows * s.hidden * s.inter,
    )
    ids, table = make.shuffled(s.vocab)[: s.rows], make.weight(s.vocab, s.hidden)
    yield Case(
        "gemm.gather_rows",
        lambda impl: (gemm.gather_rows(table, ids, dtype=x.dtype, impl=impl),),
        lambda: F.embedding(ids, table).to(x.dtype),
        bytes=s.rows * s.hidden * (table.element_size() + x.element_size()),
    )


def _quantized(s: Sizes, make: Maker) -> Iterator[Case]:
    """The linear layer of each format, with a bias."""
    n, k = s.hidden, s.heads * s.v
    x, matrix, bias = make(s.rows, k), make.weight(n, k), make(n)
    for variant, quantized in (
        ("int4", quantize.quantize_int4(matrix)),
        ("int4 of 128, zeros", quantize.quantize_int4(matrix, 128, zero_point=True)),
        ("int8", quantize.quantize_int8(matrix)),
        ("fp8 block", quantize.quantize_fp8_block(matrix)),
        ("fp8 channel", quantize.quantize_fp8_channel(matrix)),
        ("mxfp4", quantize.quantize_mxfp4(matrix)),
        ("nvfp4", quantize.quantize_nvfp4(matrix)),
    ):
        weight = gemm.prepare(quantized, bias=bias, keep_source=True)
        moved, flops = quantized.nbytes + nbytes(x, bias) + s.rows * n * x.element_size(), 2 * s.rows * n * k
        theirs = _torch_linear(x, matrix.to(x.dtype))
        yield Case("gemm.linear", _linear(x, weight), theirs, bytes=moved, flops=flops, variant=variant)


def _linear(x: Tensor, weight: gemm.LinearWeight) -> Run:
    return lambda impl: (gemm.linear(x, weight, impl=impl),)


def _torch_linear(x: Tensor, weight: Tensor) -> Callable[[], object]:
    return lambda: F.linear(x, weight)
