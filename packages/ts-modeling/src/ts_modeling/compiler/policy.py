"""The choices that a plan leaves open, each for the whole model; the compiler tries all that apply."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """``cut_tokens``: a pending sum that a free module takes is reduce-scattered over tokens, and stays cut through
    norms and residuals until a module needs it whole, instead of all-reduced. ``dispatch``: rows travel to their
    experts, instead of being gathered."""

    cut_tokens: bool = False
    dispatch: bool = False

    def told(self, *, experts: bool) -> str:
        """For people; with the rows of ``experts``, if the model has any."""
        tokens = f"tokens {'cut' if self.cut_tokens else 'whole'} between blocks"
        return f"{tokens}, experts by {'dispatch' if self.dispatch else 'gathering'}" if experts else tokens
