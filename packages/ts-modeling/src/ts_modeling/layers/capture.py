"""Hidden states beside the logits, for drafts that read them. Legend: T tokens, D hidden, S samples, V vocabulary."""

from collections.abc import Sequence

from torch import Tensor

from ..errors import ConfigError
from ..placement import TOKENS, Dim, Replicate, Shard, Spec
from .columns import JoinColumns
from .embedding import LMHead
from .leaf import AnnotatedModel
from .norm import AddRMSNorm
from .rows import SelectRows


class CapturingModel(AnnotatedModel):
    """A model with one residual stream, whose sums after chosen layers it can give as well, and what its head reads.

    Without ``capture`` nothing of it is traced.
    """

    select_x: SelectRows
    select_residual: SelectRows
    norm: AddRMSNorm
    head: LMHead
    captured: tuple[int, ...] = ()
    final: bool = False

    def capture(self, layers: Sequence[int], count: int, hidden: int, *, final: bool = False) -> None:
        """Give the residual stream [T, D] after each of ``layers`` (of ``count``, from 0), side by side, of all tokens.

        ``final`` adds the states that the head reads: after the last layer and the final norm. Raises ``ConfigError``
        for layers that are not there or out of order.
        """
        if sorted(set(layers)) != list(layers) or not all(0 <= layer < count for layer in layers):
            raise ConfigError(f"feature_layers = {list(layers)}; give rising numbers from 0 to {count - 1}")
        self.captured, self.final = tuple(layers), final
        parts = len(layers) + final
        features = Dim("features", hidden * parts)
        self.join = JoinColumns([Dim("hidden", hidden)] * parts, features)
        assert not isinstance(self.gives, tuple), "a model captures once"
        self.gives = (self.gives, Spec(TOKENS, features, attn_dp=Shard("tokens"), attn_tp=Replicate()))

    def keep(self, layer: int, x_TD: Tensor, residual_TD: Tensor, captured: list[Tensor]) -> None:
        """Note the sum after ``layer`` where it is wanted; a new tensor, as norms add to the residual in place."""
        if layer in self.captured:
            captured.append(x_TD + residual_TD)

    def finish(
        self, x_TD: Tensor, residual_TD: Tensor | None, indices_S: Tensor | None, captured: list[Tensor]
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Branch and residual after the last layer -> what ``forward`` returns: logits [S, V], and with ``capture`` the
        states. Rows are chosen before the norm, unless the states of all are wanted.
        """
        if self.final:
            x_TD, _ = self.norm(x_TD, residual_TD)
            captured.append(x_TD)
            x_SD = self.select_x(x_TD, indices_S)
        else:
            x_SD, _ = self.norm(self.select_x(x_TD, indices_S), self.select_residual(residual_TD, indices_S))
        logits_SV: Tensor = self.head(x_SD)
        return (logits_SV, self.join(*captured)) if captured else logits_SV
