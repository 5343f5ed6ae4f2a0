"""Weights of routed experts. Legend: E experts, D hidden, I intermediate, N rows, K columns."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import contract
from ...errors import ContractError, KernelError
from ..activation.gates import Gated
from ..quantize.formats import KINDS, QuantizedWeight

if TYPE_CHECKING:
    from ..._native import PackedExperts
    from .triton.tiles import TiledExperts

_PREPARE = "moe.prepare_experts"
ALL_KINDS = ("dense", *KINDS)
ExpertSource = Tensor | QuantizedWeight


@dataclass(frozen=True, eq=False, kw_only=True)
class ExpertWeights:
    """Routed experts, prepared: gate_up [E, 2I, D] and down [E, D, I], biases, and what joins gate and up.

    Holds the form that the chosen kernel reads: the sources, or a kernel's own form alone. ``interleaved`` says how the
    source's gate and up rows lie (in turn, else gate first); ``gate_up_bias`` fp32 [E, 2I] is gate first in any case.
    """

    experts: int
    hidden: int
    inter: int
    kind: str
    dtype: torch.dtype
    device: torch.device
    gate_up: ExpertSource | None
    down: ExpertSource | None
    interleaved: bool
    gate_up_bias: Tensor | None
    down_bias: Tensor | None
    activation: Gated
    packed: "PackedExperts | TiledExperts | None"

    @property
    def format(self) -> str:
        """What selection sees: the kind ("dense", "int4" ...) and the forms held ("packed", on a GPU "tiled")."""
        form = "tiled" if hasattr(self.packed, "gate_up") else "packed"
        forms = (("source", self.gate_up), (form, self.packed))
        return f"{self.kind}:" + "+".join(name for name, held in forms if held is not None)

    def sources(self) -> tuple[ExpertSource, ExpertSource]:
        """(gate_up, down) as they were given. Raises ``KernelError`` if they were not kept."""
        if self.gate_up is None or self.down is None:
            raise KernelError(
                f"{_PREPARE}: the sources of these experts were not kept; "
                "prepare them with keep_source=True or set TS_KERNELS_KEEP_SOURCE=1"
            )
        return self.gate_up, self.down

    def dequantize(self, expert: int) -> tuple[Tensor, Tensor]:
        """One expert's (gate_up [2I, D], gate rows first, down [D, I]) in fp32. Raises ``KernelError``."""
        gate_up, down = (matrix(source, expert) for source in self.sources())
        return gate_first(gate_up) if self.interleaved else gate_up, down


def matrix(source: ExpertSource, expert: int) -> Tensor:
    """One expert's matrix, fp32 [N, K]."""
    return source[expert].dequantize() if isinstance(source, QuantizedWeight) else source[expert].float()


def gate_first(rows: Tensor) -> Tensor:
    """Rows (gate, up, gate, up ...) as all gate rows, then all up rows."""
    return torch.cat((rows[::2], rows[1::2]))


def checked(gate_up: ExpertSource, down: ExpertSource) -> tuple[str, torch.dtype, torch.device]:
    """Kind, dtype and device of a pair of stacks; raises ``ContractError``."""
    if type(gate_up) is not type(down) and QuantizedWeight in (*type(gate_up).__mro__, *type(down).__mro__):
        given = f"{type(gate_up).__name__} and {type(down).__name__}"
        raise ContractError(_PREPARE, "gate_up and down", "of one format, or both tensors", given)
    if len(gate_up.shape) != 3:
        form = type(gate_up).__name__
        given_gate_up = gate_up if isinstance(gate_up, Tensor) else f"{form} {list(gate_up.shape)}"
        raise ContractError(_PREPARE, "gate_up", "[E, 2I, D]", given_gate_up)
    experts, rows, hidden = gate_up.shape
    if rows % 2 or tuple(down.shape) != (experts, hidden, rows // 2) or 0 in down.shape:
        given = f"gate_up {list(gate_up.shape)} and down {list(down.shape)}"
        raise ContractError(_PREPARE, "gate_up and down", "[E, 2I, D] and [E, D, I] with no size 0", given)
    if gate_up.device != down.device:
        raise ContractError(_PREPARE, "gate_up and down", "on one device", f"{gate_up.device} and {down.device}")
    if isinstance(gate_up, QuantizedWeight) and isinstance(down, QuantizedWeight):
        if gate_up.kind != down.kind:
            raise ContractError(_PREPARE, "gate_up and down", "of one format", f"{gate_up.kind} and {down.kind}")
        gate_up.readable(_PREPARE, "gate_up")
        down.readable(_PREPARE, "down")
        return gate_up.kind, torch.bfloat16, gate_up.device
    assert isinstance(gate_up, Tensor)
    assert isinstance(down, Tensor)
    contract.readable(_PREPARE, "gate_up", gate_up)
    contract.readable(_PREPARE, "down", down)
    contract.dtype(_PREPARE, "gate_up", gate_up, *contract.FLOATS)
    contract.dtype(_PREPARE, "down", down, gate_up.dtype)
    return "dense", gate_up.dtype, gate_up.device


def checked_bias(argument: str, bias: Tensor | None, like: ExpertSource, rows: int, interleaved: bool) -> Tensor | None:
    """``bias`` [E, N], fp32 or bf16, as fp32 with gate columns first; raises ``ContractError``."""
    if bias is None:
        return None
    contract.shape(_PREPARE, argument, bias, like.shape[0], rows)
    contract.dtype(_PREPARE, argument, bias, *contract.FLOATS)
    if bias.device != like.device:
        contract.fail(_PREPARE, argument, f"on {like.device} like the weights", bias)
    contract.readable(_PREPARE, argument, bias)
    return (torch.cat((bias[:, ::2], bias[:, 1::2]), 1) if interleaved else bias).float().contiguous()
