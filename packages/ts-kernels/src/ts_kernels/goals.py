"""The calls that a GPU is judged by: Kimi K2.5 cut over four devices, each with a goal of its own.

Legend: B rows, S keys of a row, T tokens, H heads, L latent, R rotary width, D hidden, I intermediate, E experts.

A goal is so many times the least time in which this device, by what it was measured to read and multiply in the same
run, could do what the call must; or a rate of products. Calls are captured in a CUDA graph where they can be, so that
the time is the device's and not that of launching.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from . import plugins
from .clocks import Floor, median_us
from .errors import NoKernelError
from .graphs import CudaRecording
from .ops import activation, attention, kv_cache, mla, moe, norm, rope
from .ops.quantize import Int4Weight
from .registry import REGISTRY, Band

Run = Callable[[str | None], Any]


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Sizes of the calls: ``rows`` are batches of decode over ``context`` keys, ``few`` and ``many`` tokens of MoE."""

    heads: int = 16
    latent: int = 512
    rope: int = 64
    nope: int = 128
    page_size: int = 64
    rows: tuple[int, ...] = (4, 8, 16)
    context: int = 80 * 1024
    prefix: int = 64 * 1024
    chunk: int = 8192
    hidden: int = 7168
    inter: int = 512
    experts: int = 384
    top_k: int = 8
    few: tuple[int, ...] = (1, 4, 16)
    many: int = 8192


KIMI = Shapes()
# The same calls in little, to try them where there is no GPU.
TINY = Shapes(
    heads=2, latent=64, rope=16, nope=32, page_size=16, rows=(2,), context=80, prefix=64, chunk=20, hidden=64, inter=32,
    experts=6, top_k=2, few=(3,), many=20,
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One call, what it must at least move and compute, and its goal on a GPU: ``times`` the floor, or ``tflops``."""

    label: str
    operation: str
    run: Run
    bytes: int
    flops: int
    times: float | None = None
    tflops: float | None = None

    @property
    def goal(self) -> str:
        """In words."""
        return f"at most {self.times:g}x the floor" if self.times else f"{self.tflops:g} TFLOP/s or more"

    def met(self, us: float, floor_us: float) -> bool:
        """Whether a call that took so long is as good as it should be."""
        return us <= self.times * floor_us if self.times else self.flops / us / 1e6 >= (self.tflops or 0.0)


@dataclass(frozen=True)
class Figure:
    """What one kernel took for a line. ``how`` is "graph", or "launched" from Python; ``failure`` is what it raised.

    ``met`` is None on a CPU, whose goals these are not.
    """

    label: str
    operation: str
    kernel: str
    how: str
    us: float
    floor_us: float
    bytes: int
    flops: int
    goal: str
    met: bool | None
    failure: str = ""

    @property
    def percent(self) -> float:
        """How much of the best possible speed this is."""
        return 100 * self.floor_us / self.us

    def as_json(self) -> dict[str, object]:
        """Fields, the share of the floor, and 10^12 operations and bytes a second."""
        rates = {"tflops": self.flops / self.us / 1e6, "tb_s": self.bytes / self.us / 1e6}
        return {**asdict(self), "percent_of_floor": self.percent, **rates}

    def __str__(self) -> str:
        said = f"{self.label:44} {self.kernel:10} "
        if self.failure:
            return f"{said}FAILED {self.failure}"
        rates = f"{self.bytes / self.us / 1e6:6.3f} TB/s {self.flops / self.us / 1e6:7.2f} TFLOP/s"
        verdict = "" if self.met is None else f"  {self.goal}: {'met' if self.met else 'MISSED'}"
        return f"{said}{self.us:10.1f} us ({self.how}) {self.percent:5.0f}% of the floor {rates}{verdict}"


def run(shapes: Shapes, device: torch.device, dtype: torch.dtype, floor: Floor, budget: float) -> Iterator[Figure]:
    """Time every kernel of every line that serves it here, ours and vendors'; one that raises fails alone."""
    plugins.load_all()
    with torch.inference_mode():
        for line in lines(shapes, device, dtype):
            names = [s.name for s in REGISTRY.kernels(line.operation) if s.band >= Band.UNPROVEN]
            served = [
                figure for name in names if name != "reference" for figure in _time(line, name, device, floor, budget)
            ]
            yield from served or _time(line, "reference", device, floor, budget)


def lines(s: Shapes, device: torch.device, dtype: torch.dtype) -> Iterator[Line]:
    """The calls, one at a time so that their tensors do not pile up."""
    generator = torch.Generator(device).manual_seed(0)

    def make(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

    yield from _decode(s, make)
    yield from _prefill(s, make)
    yield from _experts(s, make, generator)
    yield from _small(s, make)


def _time(line: Line, kernel: str, device: torch.device, floor: Floor, budget: float) -> Iterator[Figure]:
    least = floor.us(line.bytes, line.flops) or 0.0

    def figure(how: str, us: float, met: bool | None, failure: str = "") -> Figure:
        must = (line.bytes, line.flops, line.goal)
        return Figure(line.label, line.operation, kernel, how, us, least, *must, met, failure)

    try:
        line.run(kernel)
        call, how = _launch(lambda: line.run(kernel), device)
        us = median_us(call, budget, device)
    except NoKernelError:
        return
    except Exception as error:  # one kernel that breaks must not hide what the others do
        failure = f"{type(error).__name__}: {error}".splitlines()[0]
        yield figure("-", float("inf"), False, failure)
        return
    yield figure(how, us, line.met(us, least) if device.type == "cuda" else None)


def _launch(call: Callable[[], Any], device: torch.device) -> tuple[Callable[[], object], str]:
    """The call as a CUDA graph; as it is on a CPU, and where the kernel waits for the device, as vendors' plans do."""
    if device.type != "cuda":
        return call, "launched"
    try:
        return CudaRecording(call).launch, "graph"
    except RuntimeError:
        torch.cuda.synchronize(device)
        return call, "launched"


def _paged(s: Shapes, make: Callable[..., Tensor], rows: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """A bf16 cache of latents, page tables in a shuffled order, and lengths."""
    each = -(-keys // s.page_size)
    cache = make(rows * each, s.page_size, s.latent + s.rope).bfloat16()
    tables = torch.randperm(rows * each, generator=torch.Generator().manual_seed(1)).int().view(rows, each)
    lengths = torch.full((rows,), keys, dtype=torch.int32)
    return cache, tables.to(cache.device), lengths.to(cache.device)


def _decode(s: Shapes, make: Callable[..., Tensor]) -> Iterator[Line]:
    scale = (s.nope + s.rope) ** -0.5
    for rows in s.rows:
        cache, tables, lengths = _paged(s, make, rows, s.context)
        one = torch.ones(1, device=cache.device)
        for name, held, factor in (("bf16", cache, None), ("FP8", cache.to(torch.float8_e4m3fn), one)):
            for q_len in (1, 4):
                latents, ropes = make(rows * q_len, s.heads, s.latent), make(rows * q_len, s.heads, s.rope)
                given = {"q_len": q_len, "cache_scale": factor}
                size = (
                    held.numel() * held.element_size() + (2 * latents.numel() + ropes.numel()) * latents.element_size()
                )
                yield Line(
                    f"MLA decode, {name} cache, {s.context} keys, {rows} x {q_len}",
                    "mla.decode_absorbed",
                    _bind(mla.decode_absorbed, latents, ropes, held, tables, lengths, scale, **given),
                    size,
                    2 * rows * q_len * s.heads * s.context * (2 * s.latent + s.rope),
                    times=1.2,
                )


def _prefill(s: Shapes, make: Callable[..., Tensor]) -> Iterator[Line]:
    """The products of attention alone are counted, not those that expand the latents."""
    keys, width = s.prefix + s.chunk, s.nope + s.rope
    cache, tables, lengths = _paged(s, make, 1, keys)
    kv_b = mla.prepare_kv_b(make(s.heads * 2 * s.nope, s.latent).bfloat16(), s.heads, s.nope, s.nope)
    q, cu_q = make(s.chunk, s.heads, width), torch.tensor([0, s.chunk], dtype=torch.int32, device=cache.device)
    given = (q, cache, kv_b, cu_q, tables, lengths, width**-0.5)
    seen = s.chunk * s.prefix + s.chunk * (s.chunk + 1) // 2
    yield Line(
        f"MLA prefill, {s.chunk} after {s.prefix}",
        "mla.prefill",
        _bind(mla.prefill, *given, host_seq_lens=[keys]),
        cache.numel() * 2 + q.numel() * q.element_size() * (width + s.nope) // width,
        2 * s.heads * (width + s.nope) * seen,
        tflops=500.0,
    )


def _experts(s: Shapes, make: Callable[..., Tensor], generator: torch.Generator) -> Iterator[Line]:
    device = generator.device

    def stack(n: int, k: int) -> Int4Weight:
        packed = torch.randint(-(2**31), 2**31, (s.experts, n, k // 8), generator=generator, device=device)
        return Int4Weight(packed.int(), (0.01 * torch.ones(s.experts, n, k // 32, device=device)).bfloat16())

    layer = moe.prepare_experts(stack(2 * s.inter, s.hidden), stack(s.hidden, s.inter))
    for tokens in (*s.few, s.many):
        x, logits = make(tokens, s.hidden), make(tokens, s.experts).float()
        weights, ids = moe.route_softmax(logits, s.top_k, normalize=True)
        used = len(set(ids.flatten().tolist()))
        size = used * 3 * s.hidden * s.inter * 9 // 16 + 2 * x.numel() * x.element_size()
        flops = 6 * tokens * s.top_k * s.hidden * s.inter
        goal = {"tflops": 400.0} if tokens == s.many else {"times": 1.3}
        label = f"W4A16 experts, {tokens} tokens, {used} experts read"
        yield Line(label, "moe.experts", _bind(moe.experts, x, weights, ids, layer), size, flops, **goal)


def _small(s: Shapes, make: Callable[..., Tensor]) -> Iterator[Line]:
    """Fused small operations, of as many tokens as a prefill chunk has."""
    x, residual, gain = make(s.many, s.hidden), make(s.many, s.hidden), make(s.hidden)
    unit = x.element_size()
    added = _bind(norm.add_rms_norm, x, residual, gain, 1e-5)
    yield Line("add + norm", "norm.add_rms_norm", added, 4 * x.numel() * unit, 0, times=1.2)
    width, device = s.latent + s.rope, x.device
    kv_a, table = make(s.many, width), rope.cos_sin(s.rope, s.many, 50000.0).to(device)
    cache = make(-(-s.many // s.page_size), s.page_size, width).bfloat16()
    positions = torch.arange(s.many, device=device)
    slots = torch.randperm(s.many, generator=torch.Generator().manual_seed(2)).to(device)
    write = _bind(kv_cache.write_latent, kv_a, make(s.latent), 1e-5, table, positions, slots, cache)
    moved = kv_a.numel() * (unit + 2) + table.numel() * 4 + 16 * s.many
    yield Line("norm + rope + cache write", "kv_cache.write_latent", write, moved, 0, times=1.2)
    q = make(s.many, s.heads, s.nope + s.rope)
    turned = 2 * s.many * s.heads * s.rope * unit + table.numel() * 4 + 8 * s.many
    turn = _bind(rope.apply_interleaved, q, table, positions)
    yield Line("rope of the queries", "rope.apply_interleaved", turn, turned, 0, times=1.2)
    gate_up = make(s.many, 2 * s.inter)
    gate = _bind(activation.silu_mul, gate_up)
    yield Line("SiLU-mul", "activation.silu_mul", gate, 3 * s.many * s.inter * unit, 0, times=1.2)
    outs, lses = make(2, s.many, s.heads * s.nope), make(2, s.many, s.heads).float()
    moved = 3 * s.many * s.heads * s.nope * unit + 3 * s.many * s.heads * 4
    yield Line("merge of two parts", "attention.merge", _bind(attention.merge, outs, lses), moved, 0, times=1.2)


def _bind(function: Callable[..., object], *arguments: object, **named: object) -> Run:
    return lambda impl: function(*arguments, **named, impl=impl)
