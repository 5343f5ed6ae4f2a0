"""Muon for matrices and AdamW for the rest, sharded over processes that share their parameters.

Muon: Keller Jordan, https://kellerjordan.github.io/posts/muon/ (momentum, orthogonalized by Newton-Schulz steps).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_NS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return matrices [M, R, C] with singular values pushed close to 1."""
    a, b, c = _NS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.transpose(1, 2)
    x = x / (x.flatten(1).norm(dim=1).view(-1, 1, 1) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.transpose(1, 2)


@dataclass(kw_only=True)
class Slot:
    """One parameter and how it is updated."""

    name: str
    param: nn.Parameter
    muon_rows: int
    """Rows of one matrix inside the parameter for Muon; 0 for AdamW."""
    lr: float
    state: dict[str, Tensor]


def make_slots(model: nn.Module) -> list[Slot]:
    """Assign every parameter its update rule."""
    slots = []
    for name, p in model.named_parameters():
        rows, lr = 0, 3e-3
        if name == "embed.weight":
            lr = 5e-3
        elif name.endswith("gate_up"):
            rows, lr = p.shape[1] // 2, 0.02
        elif p.dim() >= 2 and name != "head.weight" and not name.endswith("router"):
            rows, lr = p.shape[-2], 0.02
        count = 1 if rows else 2
        state = {f"m{i}": torch.zeros_like(p) for i in range(count)}
        slots.append(Slot(name=name, param=p, muon_rows=rows, lr=lr, state=state))
    return slots


def owner_of(slots: list[Slot], world: int) -> list[int]:
    """Spread the slots over processes by estimated work, largest first."""
    loads = [0.0] * world
    owners = [0] * len(slots)
    by_cost = sorted(range(len(slots)), key=lambda i: -slots[i].param.numel() * (8 if slots[i].muon_rows else 1))
    for i in by_cost:
        rank = loads.index(min(loads))
        owners[i] = rank
        loads[rank] += slots[i].param.numel() * (8 if slots[i].muon_rows else 1)
    return owners


@torch.no_grad()
def update(slot: Slot, grad: Tensor, *, lr_scale: float, step: int, weight_decay: float = 0.05) -> None:
    """Apply one step to ``slot.param``; ``step`` counts from 1."""
    p = slot.param
    lr = slot.lr * lr_scale
    if slot.muon_rows:
        momentum = min(0.95, 0.85 + 0.1 * step / 150)
        buf = slot.state["m0"].lerp_(grad, 1 - momentum)
        direction = grad.lerp(buf, momentum).reshape(-1, slot.muon_rows, p.shape[-1])
        ortho = orthogonalize(direction).reshape(p.shape)
        p.mul_(1 - lr * weight_decay)
        p.add_(ortho, alpha=-lr * max(1.0, slot.muon_rows / p.shape[-1]) ** 0.5)
        return
    beta1, beta2 = 0.9, 0.95
    mean, square = slot.state["m0"].lerp_(grad, 1 - beta1), slot.state["m1"].lerp_(grad.square(), 1 - beta2)
    denom = (square / (1 - beta2**step)).sqrt_().add_(1e-10)
    p.addcdiv_(mean, denom, value=-lr / (1 - beta1**step))


def state_dict(slots: list[Slot], owned: list[bool]) -> dict[str, Tensor]:
    """Return the optimizer state of the owned slots, each tensor named SLOT:KEY."""
    return {f"{s.name}:{key}": t for s, mine in zip(slots, owned, strict=True) if mine for key, t in s.state.items()}


def load_state(slots: list[Slot], state: dict[str, Tensor]) -> None:
    """Restore what ``state_dict`` returned, for the slots it holds."""
    for slot in slots:
        for key in slot.state:
            if (saved := state.get(f"{slot.name}:{key}")) is not None:
                slot.state[key].copy_(saved)
