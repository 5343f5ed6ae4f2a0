"""Gated delta nets: against transformers' Qwen modules, and what states, slots and rows mean."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen3_5
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_next import modeling_qwen3_next as qwen3_next
from ts_kernels import ContractError, linear_attention, platform
from ts_kernels.selection import OPERATIONS

IMPLS = ["reference", *(["native"] if platform.native_error() is None else [])]
every = pytest.mark.parametrize("impl", IMPLS)
Close = Callable[..., None]
LENGTHS = (5, 0, 70, 1, 130)


@dataclass(frozen=True)
class Inputs:
    """Several rows' tokens, and a pool of states that holds NaN where no row's slot is."""

    q: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    b: Tensor
    a_log: Tensor
    dt_bias: Tensor
    states: Tensor
    slots: Tensor
    cu_q: Tensor

    @classmethod
    def random(
        cls,
        lengths: tuple[int, ...] = LENGTHS,
        heads: tuple[int, int] = (2, 6),
        widths: tuple[int, int] = (32, 48),
        dtype: torch.dtype = torch.float32,
    ) -> "Inputs":
        generator = torch.Generator().manual_seed(sum(lengths) + widths[1])

        def make(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        tokens, rows = sum(lengths), len(lengths)
        # q, k and v are slices of one tensor, as they are of the convolution's output.
        sizes = [heads[0] * widths[0]] * 2 + [heads[1] * widths[1]]
        q, k, v = make(tokens, sum(sizes)).to(dtype).split(sizes, -1)
        slots = torch.randperm(rows + 3, generator=generator)[:rows]
        states = torch.full((rows + 3, heads[1], *widths), torch.nan)
        states[slots] = make(rows, heads[1], *widths)
        return cls(
            q.unflatten(-1, (heads[0], -1)), k.unflatten(-1, (heads[0], -1)), v.unflatten(-1, (heads[1], -1)),
            make(tokens, heads[1]).to(dtype), make(tokens, heads[1]).to(dtype), make(heads[1]), make(heads[1]),
            states, slots, torch.tensor([0, *lengths]).cumsum(0).int(),
        )  # fmt: skip

    def run(self, impl: str, fresh: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs, and the pool afterwards."""
        states = self.states.clone()
        each = (self.q, self.k, self.v, self.a, self.b, self.a_log, self.dt_bias, states, self.slots, self.cu_q)
        return linear_attention.gated_delta(*each, fresh, impl=impl), states

    def part(self, first: int, end: int, *, rows: slice = slice(None)) -> "Inputs":
        """Tokens [first, end) of each row alone."""
        spans = self.cu_q.tolist()
        picked = list(itertools.pairwise(spans))[rows]
        index = torch.cat([torch.arange(a, b)[first:end] for a, b in picked])
        lengths = [len(range(a, b)[first:end]) for a, b in picked]
        cut = {name: getattr(self, name)[index] for name in ("q", "k", "v", "a", "b")}
        return replace(self, **cut, slots=self.slots[rows], cu_q=torch.tensor([0, *lengths]).cumsum(0).int())


def oracle(x: Inputs, rule: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """transformers' function on each row by itself."""
    g = -x.a_log.exp() * F.softplus(x.a.float() + x.dt_bias)
    beta, out, states = x.b.float().sigmoid(), torch.zeros(x.v.shape, dtype=x.v.dtype), x.states.clone()
    for row, slot in enumerate(x.slots.tolist()):
        one = slice(int(x.cu_q[row]), int(x.cu_q[row + 1]))
        if one.start == one.stop:
            continue
        out[one], states[slot] = (
            t[0]
            for t in rule(
                *(t[None, one].float() for t in (x.q, x.k, x.v)),
                g=g[None, one],
                beta=beta[None, one],
                initial_state=x.states[slot][None],
                output_final_state=True,
                use_qk_l2norm_in_kernel=True,
            )
        )
    return out, states


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("module", [qwen3_next, qwen3_5])
@pytest.mark.parametrize("rule", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
def test_delta_rule_is_transformers(
    each_kernel: str, assert_close: Close, dtype: torch.dtype, module: object, rule: str
) -> None:
    x = Inputs.random(dtype=dtype)
    want_out, want_states = oracle(x, getattr(module, rule))
    out, states = x.run(each_kernel)
    assert_close(out, want_out)
    assert_close(states, want_states, torch.float32)


@pytest.mark.parametrize("heads", [(1, 1), (2, 2), (2, 8)])
@pytest.mark.parametrize("widths", [(128, 128), (16, 100), (63, 1), (7, 33)])
def test_native_delta_rule(isa: str, assert_close: Close, heads: tuple[int, int], widths: tuple[int, int]) -> None:
    x = Inputs.random((3, 40), heads, widths)
    for have, want in zip(x.run("native"), x.run("reference"), strict=True):
        assert_close(have, want)


@every
def test_mistakes_are_outside_of_the_tolerance(impl: str, assert_close: Close) -> None:
    x = Inputs.random(dtype=torch.bfloat16)
    want = x.run(impl)[0]
    wrong = [
        replace(x, slots=x.slots.roll(1)),
        replace(x, a_log=x.a_log - 1),
        replace(x, b=x.b + 0.2),
        replace(x, k=x.k.flip(1)),
        replace(x, q=x.q.roll(1, 0)),
        replace(x, v=x.v * 1.06),
        replace(x, states=x.states * 0.9),
    ]
    for other in wrong:
        with pytest.raises(AssertionError, match="differs"):
            assert_close(other.run(impl)[0], want)


def test_a_prefill_in_parts_and_steps_is_one_prefill(each_kernel: str, assert_close: Close) -> None:
    """States carry over: ten tokens, then single ones by the step, against all at once."""
    x = Inputs.random((13, 13, 13))
    whole, whole_states = x.run(each_kernel)
    first, states = x.part(0, 10).run(each_kernel)
    parts = [first.view(3, 10, *first.shape[1:])]
    for t in range(10, 13):
        y = x.part(t, t + 1)
        step = linear_attention.gated_delta_step(
            y.q, y.k, y.v, y.a, y.b, y.a_log, y.dt_bias, states, y.slots, impl=each_kernel
        )
        parts.append(step[:, None])
    assert_close(torch.cat(parts, 1).flatten(0, 1), whole)
    assert_close(states, whole_states)


@every
def test_fresh_rows_start_from_zeros(impl: str, assert_close: Close) -> None:
    x = Inputs.random()
    fresh = torch.tensor([True, True, False, True, False])
    zeros = x.states.clone()
    zeros[x.slots[fresh]] = 0
    want, want_states = replace(x, states=zeros).run(impl)
    poisoned = x.states.clone()
    poisoned[x.slots[fresh]] = torch.nan
    have, states = replace(x, states=poisoned).run(impl, fresh)
    assert_close(have, want)
    assert_close(states, want_states)


@every
def test_rows_without_a_slot(impl: str) -> None:
    x = Inputs.random()
    whole, whole_states = x.run(impl)
    slots = x.slots.clone()
    slots[2] = -1
    have, states = replace(x, slots=slots).run(impl)
    skipped = slice(int(x.cu_q[2]), int(x.cu_q[3]))
    assert (have[skipped] == 0).all()
    assert torch.equal(have[: skipped.start], whole[: skipped.start])
    assert torch.equal(have[skipped.stop :], whole[skipped.stop :])
    assert torch.equal(states[x.slots[2]], x.states[x.slots[2]])
    assert torch.equal(states[x.slots[4]], whole_states[x.slots[4]])


def test_a_row_does_not_depend_on_its_batch(isa: str) -> None:
    x = Inputs.random()
    whole, _ = x.run("native")
    for row in range(5):
        alone, _ = x.part(0, 1000, rows=slice(row, row + 1)).run("native")
        assert torch.equal(alone, whole[int(x.cu_q[row]) : int(x.cu_q[row + 1])])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "width"), [(100, 4), (1030, 4), (1, 2), (40, 3)])
def test_convolution_is_transformers(
    each_kernel: str, assert_close: Close, dtype: torch.dtype, channels: int, width: int
) -> None:
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(sum(LENGTHS), channels + 5, generator=generator)[:, 3:-2].to(dtype)
    weight = torch.randn(channels, width, generator=generator).to(dtype)
    pool = torch.full((8, width - 1, channels), torch.nan)
    slots = torch.tensor([6, 1, 7, 0, 3])
    pool[slots] = torch.randn(5, width - 1, channels, generator=generator)
    want, want_pool = torch.zeros(x.shape, dtype=dtype), pool.clone()
    spans = torch.tensor([0, *LENGTHS]).cumsum(0)
    for row, slot in enumerate(slots.tolist()):
        one = slice(int(spans[row]), int(spans[row + 1]))
        if one.start == one.stop:
            continue
        state = pool[slot].t()[None].clone()
        want[one] = qwen3_next.causal_conv1d_update(x[one].float().t()[None], state, weight.float(), activation="silu")[
            0
        ].t()
        want_pool[slot] = state[0].t()
    states = pool.clone()
    assert_close(linear_attention.causal_conv(x, weight, states, slots, spans.int(), impl=each_kernel), want)
    assert_close(states, want_pool)
    with pytest.raises(AssertionError, match="differs"):
        assert_close(
            linear_attention.causal_conv(x, weight.flip(1), pool.clone(), slots, spans.int(), impl=each_kernel), want
        )


@every
def test_convolution_of_fresh_and_free_rows_and_steps(impl: str, assert_close: Close) -> None:
    generator = torch.Generator().manual_seed(9)
    x, weight = torch.randn(12, 70, generator=generator), torch.randn(70, 4, generator=generator)
    states, slots = torch.full((4, 3, 70), torch.nan), torch.tensor([2, -1, 1])
    fresh, cu_q = torch.tensor([True, False, True]), torch.tensor([0, 6, 7, 12]).int()
    have = linear_attention.causal_conv(x, weight, states, slots, cu_q, fresh, impl=impl)
    want = F.silu(F.conv1d(F.pad(x[:6].t()[None], (3, 0)), weight[:, None], groups=70))[0].t()
    assert_close(have[:6], want)
    assert (have[6] == 0).all()
    assert torch.equal(states[2], x[3:6])
    stepped, slots = torch.full((4, 3, 70), torch.nan), torch.tensor([1, -1])
    stepped[1] = 0
    for t in range(7, 12):
        token = torch.stack((x[t], x[0]))
        step = linear_attention.causal_conv_step(token, weight, stepped, slots, impl=impl)
        assert_close(step[0], have[t])
        assert (step[1] == 0).all()
    assert torch.equal(stepped[1], states[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_norm_is_transformers(each_kernel: str, assert_close: Close, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(10)
    x, z = torch.randn(2, 9, 110, generator=generator).to(dtype)[..., 5:-5]
    weight = torch.randn(100, generator=generator)
    norm = qwen3_next.Qwen3NextRMSNormGated(100, 1e-6)
    norm.weight.data = weight
    with torch.no_grad():
        want = norm(x.float(), z.float()).to(dtype)
    assert_close(linear_attention.gated_rms_norm(x, z, weight, 1e-6, impl=each_kernel), want)
    with pytest.raises(AssertionError, match="differs"):
        assert_close(linear_attention.gated_rms_norm(z, x, weight, 1e-6, impl=each_kernel), want)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies(impl: str, dtype: torch.dtype) -> None:
    pool = torch.randn(6, 3, 70, 40, generator=torch.Generator().manual_seed(11)).to(dtype)
    target = torch.zeros(4, 3, 70, 40, dtype=dtype)
    linear_attention.copy_states(pool, target, torch.tensor([5, -1, 0]), torch.tensor([0, 2, -1]), impl=impl)
    assert torch.equal(target[0], pool[5])
    assert (target[1:] == 0).all()
    before = pool.clone()
    linear_attention.copy_states(pool, pool, torch.tensor([1, 4]), torch.tensor([3, 0]), impl=impl)
    assert torch.equal(pool, before[[4, 1, 2, 1, 4, 5]])
    linear_attention.copy_states(pool, pool, torch.tensor([], dtype=torch.int64), torch.tensor([]).long(), impl=impl)


def test_a_layer_of_qwen_3_5(each_kernel: str, assert_close: Close) -> None:
    """The whole block with random weights: projections by torch, everything between them by these operations."""
    torch.manual_seed(12)
    config = Qwen3_5TextConfig(
        hidden_size=64, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16,
        linear_value_head_dim=24, linear_conv_kernel_dim=4, num_hidden_layers=1, layer_types=["linear_attention"],
    )  # fmt: skip
    layer = qwen3_5.Qwen3_5GatedDeltaNet(config, 0).eval()
    layer.dt_bias.data.normal_()
    x = torch.randn(1, 37, 64)
    with torch.no_grad():
        want = layer(x)[0]
        mixed, z, a, b = (f(x[0]) for f in (layer.in_proj_qkv, layer.in_proj_z, layer.in_proj_a, layer.in_proj_b))
    zero, spans, fresh = torch.tensor([1]), torch.tensor([0, 37]).int(), torch.tensor([True])
    conv, delta = torch.full((2, 3, mixed.shape[1]), torch.nan), torch.full((2, 4, 16, 24), torch.nan)
    weight = layer.conv1d.weight.data[:, 0]
    mixed = linear_attention.causal_conv(mixed, weight, conv, zero, spans, fresh, impl=each_kernel)
    q, k, v = mixed.split([32, 32, 96], -1)
    out = linear_attention.gated_delta(
        q.unflatten(-1, (2, 16)), k.unflatten(-1, (2, 16)), v.unflatten(-1, (4, 24)), a, b, layer.A_log.data,
        layer.dt_bias.data, delta, zero, spans, fresh, impl=each_kernel,
    )  # fmt: skip
    gain, eps = layer.norm.weight.data, config.rms_norm_eps
    normed = linear_attention.gated_rms_norm(out.flatten(0, 1), z.reshape(-1, 24), gain, eps, impl=each_kernel)
    with torch.no_grad():
        assert_close(layer.out_proj(normed.view(37, -1)), want)


@every
def test_empty_batches(impl: str) -> None:
    x = Inputs.random(())
    out, states = x.run(impl)
    assert out.shape == (0, 6, 48)
    empty = torch.empty(0, dtype=torch.int64)
    conv = linear_attention.causal_conv_step(torch.empty(0, 8), torch.ones(8, 4), torch.ones(2, 3, 8), empty, impl=impl)
    assert conv.shape == (0, 8)
    step = (x.q, x.k, x.v, x.a, x.b, x.a_log, x.dt_bias, states, empty)
    assert linear_attention.gated_delta_step(*step, impl=impl).shape == (0, 6, 48)
    assert linear_attention.gated_rms_norm(
        torch.empty(0, 8), torch.empty(0, 8), torch.ones(8), 1e-6, impl=impl
    ).shape == (0, 8)


def step_arguments(dtype: torch.dtype) -> dict[str, tuple[Tensor, ...]]:
    """Of each operation that one native call serves; rows spaced, a row without a slot."""
    generator = torch.Generator().manual_seed(3)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    slots = torch.tensor([2, -1, 0])
    heads = [randn(3, count + 1, width).to(dtype)[:, 1:] for count, width in ((2, 12), (2, 12), (4, 20))]
    gates = [randn(3, 9).to(dtype)[:, 5:] for _ in range(2)]
    return {
        "causal_conv_step": (randn(3, 75).to(dtype)[:, 5:], randn(70, 4).to(dtype), randn(4, 3, 70), slots),
        "gated_delta_step": (*heads, *gates, randn(4), randn(4), randn(4, 4, 12, 20), slots),
        "gated_rms_norm": (randn(6, 24).to(dtype)[:, 4:], randn(6, 20).to(dtype), randn(20), 1e-6),
    }  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["causal_conv_step", "gated_delta_step", "gated_rms_norm"])
def test_steps_by_one_call_give_the_same(isa: str, name: str, dtype: torch.dtype) -> None:
    call = getattr(linear_attention, name)
    call(*step_arguments(dtype)[name])  # chooses
    have, want, direct = (step_arguments(dtype)[name] for _ in range(3))
    result = call(*want, impl="native")
    assert torch.equal(call(*have), result)
    last = (None,) if name == "gated_delta_step" else ()
    assert torch.equal(OPERATIONS[f"linear_attention.{name}"].direct(*direct, *last), result)
    for mine in (have, direct):
        assert all(torch.equal(x, y) for x, y in zip(mine[:-1], want[:-1], strict=True))
    if name == "gated_delta_step":
        assert torch.equal(call(*have, scale=0.5), call(*want, scale=0.5, impl="native"))


@pytest.mark.parametrize("name", ["causal_conv_step", "gated_delta_step", "gated_rms_norm"])
def test_the_one_call_declines_what_it_cannot_take(native: None, name: str) -> None:
    call, given = getattr(linear_attention, name), step_arguments(torch.float32)[name]
    call(*given)
    direct = OPERATIONS[f"linear_attention.{name}"].direct
    last = (None,) if name == "gated_delta_step" else ()
    for place, value in enumerate(given):
        if not isinstance(value, Tensor):
            continue
        changes = [value.double(), value[..., None], value[..., :-1]]
        if value.dim() > 1:
            changes.append(value.transpose(0, -1).contiguous().transpose(0, -1))
        for change in changes:
            assert direct(*given[:place], change, *given[place + 1 :], *last) is NotImplemented, (place, change.shape)
    if name != "gated_rms_norm":
        with pytest.raises(ContractError, match="slots must be below 4"):
            call(*given[:-1], given[-1] + 2)
    else:
        assert direct(*given[:-1], float("nan")) is NotImplemented
