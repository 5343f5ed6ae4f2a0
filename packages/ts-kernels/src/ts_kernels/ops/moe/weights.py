"""Weights of routed experts. Legend: E experts, D hidden, I intermediate, N rows, K columns."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import contract
from ...errors import ContractError, KernelError
from ..quantize.formats import Int4Weight

if TYPE_CHECKING:
    from ..._native import PackedExperts

INT4_GROUP = 32
_PREPARE = "moe.prepare_experts"


ExpertSource = Tensor | Int4Weight


@dataclass(frozen=True, eq=False)
class ExpertWeights:
    """Routed experts, prepared: gate_up [E, 2I, D] (gate rows, then up rows) and down [E, D, I].

    Holds the form that the chosen kernel reads: the sources, or the packed form alone.
    """

    experts: int
    hidden: int
    inter: int
    kind: str
    dtype: torch.dtype
    device: torch.device
    gate_up: ExpertSource | None
    down: ExpertSource | None
    packed: "PackedExperts | None"

    @property
    def format(self) -> str:
        """What selection sees: the kind ("bf16", "int4") and the forms held."""
        forms = (("source", self.gate_up), ("packed", self.packed))
        return f"{self.kind}:" + "+".join(name for name, form in forms if form is not None)

    def dequantize(self, expert: int) -> tuple[Tensor, Tensor]:
        """One expert's (gate_up [2I, D], down [D, I]) in fp32. Raises ``KernelError`` if they were not kept."""
        if self.gate_up is None or self.down is None:
            raise KernelError(
                f"{_PREPARE}: the sources of these experts were not kept; "
                "prepare them with keep_source=True or set TS_KERNELS_KEEP_SOURCE=1"
            )
        return _matrix(self.gate_up, expert), _matrix(self.down, expert)


def _matrix(source: ExpertSource, expert: int) -> Tensor:
    return source[expert].dequantize() if isinstance(source, Int4Weight) else source[expert].float()


def checked(gate_up: ExpertSource, down: ExpertSource) -> tuple[str, torch.dtype, torch.device]:
    """Kind, dtype and device of a pair of stacks; raises ``ContractError``."""
    if isinstance(gate_up, Int4Weight) != isinstance(down, Int4Weight):
        given = f"{type(gate_up).__name__} and {type(down).__name__}"
        raise ContractError(_PREPARE, "gate_up and down", "both Int4Weight or both tensors", given)
    if len(gate_up.shape) != 3:
        raise ContractError(_PREPARE, "gate_up", "[E, 2I, D]", gate_up)
    experts, rows, hidden = gate_up.shape
    if rows % 2 or tuple(down.shape) != (experts, hidden, rows // 2):
        given = f"gate_up {list(gate_up.shape)} and down {list(down.shape)}"
        raise ContractError(_PREPARE, "gate_up and down", "[E, 2I, D] and [E, D, I]", given)
    if isinstance(gate_up, Int4Weight) or isinstance(down, Int4Weight):
        assert isinstance(gate_up, Int4Weight)
        assert isinstance(down, Int4Weight)
        contract.device(_PREPARE, gate_up.packed, down=down.packed)
        for argument, weight in (("gate_up", gate_up), ("down", down)):
            if weight.group != INT4_GROUP or weight.zero_point is not None or weight.scale.dtype != torch.bfloat16:
                given = f"{weight.kind} in groups of {weight.group} with scales in {weight.scale.dtype}"
                raise ContractError(_PREPARE, argument, f"symmetric INT4 in groups of {INT4_GROUP}, scales bf16", given)
        return "int4", torch.bfloat16, gate_up.packed.device
    contract.dtype(_PREPARE, "gate_up", gate_up, *contract.FLOATS)
    contract.dtype(_PREPARE, "down", down, gate_up.dtype)
    contract.device(_PREPARE, gate_up, down=down)
    return "dense", gate_up.dtype, gate_up.device
