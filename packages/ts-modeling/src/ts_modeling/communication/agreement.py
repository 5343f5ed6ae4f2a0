"""Whether all ranks are about to run the same thing: a few hashes, compared once before groups are made.

Ranks with different plans would send one another what the other does not wait for: a crash at best.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import torch
import torch.distributed as dist

from ..compiler.program import Program, call_of, collective_of, edge_of
from ..errors import CommunicationError
from .pending import lost

ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
SHOWN: Final = 120
"""Characters of a text in an error, half of them before what differs."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that has to be alike: what it is called, and a text that is equal where it is."""

    name: str
    text: str
    fix: str


def facts_of(programs: Sequence[Program], plugins: Sequence[str], settings: str) -> list[Fact]:
    """What is compared; their number and order are the same on every rank. ``settings``: what plans do not show."""
    mesh = programs[0].mesh
    plans = [f"{p.policy} {_steps(p)}" for p in programs]
    return [
        Fact("the mesh", f"{mesh.world} {dict(mesh.axes)}", "give every rank the same mesh"),
        Fact("the model", _modules(programs[0]), "load the same checkpoint, with the same options, on every rank"),
        Fact("the configuration", ADDRESS.sub("", settings), "give every rank the same config.json, types and options"),
        Fact("the compiled plan", "\n".join(plans), "give every rank the same costs"),
        Fact("the list of collective plugins", " ".join(plugins), "install the same packages for every rank"),
    ]


def agree(facts: Sequence[Fact]) -> None:
    """Raise ``CommunicationError``, on every rank alike, naming what differs and between whom."""
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    mine = torch.tensor([[_number(fact.text) for fact in facts]], dtype=torch.int64, device=device)
    every = mine.new_empty(dist.get_world_size(), len(facts))
    try:
        dist.all_gather_into_tensor(every, mine)
    except RuntimeError as error:
        raise lost("comparing the ranks' plans", error) from error
    for fact, numbers in zip(facts, every.T.tolist(), strict=True):
        others = [rank for rank, number in enumerate(numbers) if number != numbers[0]]
        if others:
            ranks = f"rank{'s' * (len(others) > 1)} {', '.join(map(str, others))}"
            here, there = _unlike(_text_of(0, fact.text, device), _text_of(others[0], fact.text, device))
            told = f"rank 0 has {here!r}, rank {others[0]} {there!r}"
            raise CommunicationError(f"{fact.name} of {ranks} is not that of rank 0; {fact.fix} ({told})")


def _text_of(rank: int, mine: str, device: torch.device) -> str:
    """The text of ``rank``, on every rank."""
    sent = torch.tensor(list(mine.encode()), dtype=torch.uint8, device=device)
    length = torch.tensor([len(sent)], device=device)
    dist.broadcast(length, rank)
    text = sent if dist.get_rank() == rank else sent.new_empty(int(length))
    dist.broadcast(text, rank)
    return bytes(text.tolist()).decode()


def _unlike(one: str, other: str) -> tuple[str, str]:
    """What two texts hold where they first differ."""
    alike = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = max(0, alike - SHOWN // 2)
    return one[start : start + SHOWN], other[start : start + SHOWN]


def _modules(program: Program) -> str:
    calls = filter(None, map(call_of, program.operations))
    return "\n".join(f"{c.path} {type(c.leaf).__name__} {[(v.dims, v.itemsize) for v in c.outs]}" for c in calls)


def _steps(program: Program) -> str:
    """Where each operation stands among the modules, and what collectives do."""
    lines = []
    for op in program.operations:
        sent = collective_of(op)
        told = f"{sent.kind} {edge_of(sent)}" if sent else ""
        lines.append(f"{type(op).__name__} {told} {[v.layout for v in op.outs]}")
    return "\n".join(lines)


def _number(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big", signed=True)
