"""Hidden states of some layers beside the logits, for drafts that read them. Legend: T tokens, D hidden, S samples."""

from collections.abc import Sequence

from torch import Tensor

from ..errors import ConfigError
from ..placement import TOKENS, Dim, Replicate, Shard, Spec
from .columns import JoinColumns
from .leaf import AnnotatedModel


class CapturingModel(AnnotatedModel):
    """A model with one residual stream, whose sums after chosen layers it can give as well.

    Without ``capture`` nothing of it is traced.
    """

    captured: tuple[int, ...] = ()

    def capture(self, layers: Sequence[int], count: int, hidden: int) -> None:
        """Give the residual stream [T, D] after each of ``layers`` (of ``count``, from 0), side by side, of all tokens.

        Raises ``ConfigError`` for layers that are not there or out of order.
        """
        if sorted(set(layers)) != list(layers) or not all(0 <= layer < count for layer in layers):
            raise ConfigError(f"feature_layers = {list(layers)}; give rising numbers from 0 to {count - 1}")
        self.captured = tuple(layers)
        features = Dim("features", hidden * len(layers))
        self.join = JoinColumns([Dim("hidden", hidden)] * len(layers), features)
        assert not isinstance(self.gives, tuple), "a model captures once"
        self.gives = (self.gives, Spec(TOKENS, features, attn_dp=Shard("tokens"), attn_tp=Replicate()))

    def keep(self, layer: int, x_TD: Tensor, residual_TD: Tensor, captured: list[Tensor]) -> None:
        """Note the sum after ``layer`` where it is wanted; a new tensor, as norms add to the residual in place."""
        if layer in self.captured:
            captured.append(x_TD + residual_TD)

    def given(self, logits_SV: Tensor, captured: list[Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """What ``forward`` returns."""
        return (logits_SV, self.join(*captured)) if captured else logits_SV
