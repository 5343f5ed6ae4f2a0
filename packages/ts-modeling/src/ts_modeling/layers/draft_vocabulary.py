"""Which of its target's tokens a draft can say. Legend: W draft vocabulary, V the target's."""

from typing import Final

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..placement import Boundary
from .leaf import Buffer, Leaf, Slot

INTEGERS: Final = (torch.int64, torch.int32)


class DraftVocabulary(Leaf):
    """Target's id of each column of the draft's logits, stored as what to add to the column's number.

    No step of the model: who reads the logits looks ids up. The checkpoint's part is ``offsets``.
    """

    optional = True
    boundary = Boundary((), ())

    def __init__(self, size: int, target: int) -> None:
        super().__init__()
        self.size, self.target = size, target
        self.ids: Tensor | None = None

    def buffers_wanted(self) -> dict[str, Buffer]:
        """The offsets."""
        return {"offsets": Buffer((self.size,), INTEGERS, init="zeros")}

    def slot(self, part: str) -> Slot:
        """The offsets, whole on every rank."""
        return Slot("offsets", (self.size,))

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Keep int64 ids [W]. Raises ``CheckpointError`` for one outside of the target's vocabulary, or named twice."""
        offsets = tensors.pop("offsets").long()
        ids = self.ids = offsets + torch.arange(self.size, device=offsets.device)
        wrong = ((ids < 0) | (ids >= self.target)).nonzero()
        if wrong.numel():
            column = int(wrong[0])
            raise CheckpointError(
                f"d2t sends token {column} of the draft to {int(ids[column])}, but vocab_size = {self.target}: "
                "d2t holds what is added to a draft's token, and config.json must be its target's vocabulary"
            )
        if len(set(ids.tolist())) < self.size:
            raise CheckpointError("d2t sends two tokens of the draft to one of the target; copy the file again")
