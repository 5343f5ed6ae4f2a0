"""Wrong results of every case fall outside of the tolerance that kernels are held to, each output by itself."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from ts_kernels import cases, checking, graphs

SIZES = replace(
    cases.MINIATURE, hidden=64, heads=4, inter=64, experts=8, expert_inter=64, top_k=2, vocab=100, rows=3, prompt=21,
    context=53,
)  # fmt: skip
# Ids that only say whether a pair counts, and here all do.
NO_INDEX = {("moe.combine", "ids")}


def zeros(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def columns_dropped(x: Tensor) -> Tensor:
    """A quarter of a row, a head say, left out."""
    wrong = x.clone()
    wrong[..., : -(-x.shape[-1] // 4)] = 0
    return wrong


def columns_shifted(x: Tensor) -> Tensor:
    return x.roll(1, -1)


def rows_swapped(x: Tensor) -> Tensor:
    return x.roll(1, 0)


def off_by_six_percent(x: Tensor) -> Tensor:
    return (x.float() * 1.06).to(x.dtype) if x.is_floating_point() else x


MISTAKES: tuple[Callable[[Tensor], Tensor], ...] = (
    zeros, columns_dropped, columns_shifted, rows_swapped, off_by_six_percent,
)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mistakes_show_in_every_case(dtype: torch.dtype) -> None:
    missed = []
    for case in cases.all_cases(SIZES, dtype):
        wanted = case.run("reference")
        assert checking.compare(case, wanted, wanted, dtype)[1], case.label
        for place, right in enumerate(wanted):
            for mistake in MISTAKES:
                wrong = mistake(right)
                if checking.difference(wrong, right) == 0.0:
                    continue  # one row or column has no order, whole numbers have no six percent, FP8 rounds some away
                have = (*wanted[:place], wrong, *wanted[place + 1 :])
                if checking.compare(case, have, wanted, dtype)[1]:
                    missed.append(f"{case.label}, output {place}: {mistake.__name__}")
    assert not missed


def test_an_index_off_by_a_place_shows() -> None:
    """Pages, slots, positions, ids, tokens and spans, each moved on by one: what a wrong address would compute."""
    missed, seen = [], set()
    for case in cases.all_cases(SIZES):
        right = case.run("reference")
        for name, index in graphs.held(case.run):
            before = index.clone()
            moved = before.flatten().roll(1).view_as(before)
            if index.is_floating_point() or torch.equal(moved, before) or (case.operation, name) in NO_INDEX:
                continue
            index.copy_(moved)
            wrong = case.run("reference")
            index.copy_(before)
            seen.add((case.operation, name))
            if checking.compare(case, wrong, right, torch.float32)[1]:
                missed.append(f"{case.label}: {name}")
    assert not missed
    assert seen >= {
        ("attention.decode", "tables"), ("attention.prefill", "tables"), ("mla.decode", "tables"),
        ("mla.prefill", "tables"), ("kv_cache.write_latent", "slots"), ("rope.apply_halves", "positions"),
        ("moe.experts", "ids"), ("gemm.gather_rows", "ids"), ("linear_attention.gated_delta_step", "slots"),
        ("sampling.logprobs", "tokens"),
    }  # fmt: skip
