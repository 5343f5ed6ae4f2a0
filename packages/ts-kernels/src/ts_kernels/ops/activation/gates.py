"""What joins the halves of a gated MLP, as a value that layers carry and kernels take by number."""

import math
from dataclasses import dataclass
from typing import Final

from ... import contract
from ...errors import ContractError

# The numbers are csrc's ``Gate`` and the Triton kernels'.
GATES: Final = {"silu": 0, "swiglu_clamped": 1, "gelu": 2, "gelu_tanh": 3}


@dataclass(frozen=True)
class Gated:
    """``kind(gate) * up``; ``alpha`` and ``limit`` are those of swiglu_clamped (GPT-OSS: 1.702 and 7)."""

    kind: str = "silu"
    alpha: float = 1.702
    limit: float = 7.0

    def __post_init__(self) -> None:
        if self.kind not in GATES:
            raise ContractError("activation.Gated", "kind", " or ".join(GATES), self.kind)
        if not self.limit > 0:
            raise ContractError("activation.Gated", "limit", "positive", self.limit)
        if self.limit > contract.MOST_FLOAT:  # no float, which kernels and torch would trip over
            object.__setattr__(self, "limit", math.inf)
        if not -contract.MOST_FLOAT <= self.alpha <= contract.MOST_FLOAT:
            raise ContractError("activation.Gated", "alpha", "finite", self.alpha)

    @property
    def code(self) -> int:
        """The kernels' number for ``kind``."""
        return GATES[self.kind]
