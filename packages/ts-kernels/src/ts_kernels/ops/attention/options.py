"""What a call of paged attention fixes besides its tensors, and the checks of it."""

from typing import NamedTuple

from ... import contract
from .._scales import MOST_SCALE, reject_scale


class Options(NamedTuple):
    """``window`` 0 sees every key; ``soft_cap`` 0 caps nothing; the scales multiply what the caches hold."""

    scale: float
    window: int = 0
    soft_cap: float = 0.0
    k_scale: float = 1.0
    v_scale: float = 1.0


def checked(
    operation: str, scale: float, window: int | None, soft_cap: float | None, k_scale: float, v_scale: float
) -> Options:
    """The options of a call. Raises ``ContractError``."""
    options = Options(scale, window or 0, soft_cap or 0.0, k_scale, v_scale)
    # One comparison each: NaN fails them all.
    if not -MOST_SCALE <= scale <= MOST_SCALE:
        reject_scale(operation, scale)
    if options.window < 0:
        contract.fail(operation, "window", "None or the number of keys that a query sees, its own counted", window)
    if not 0.0 <= options.soft_cap <= contract.MOST_FLOAT:
        contract.fail(operation, "soft_cap", "None or a positive number", soft_cap)
    if not 0.0 < k_scale <= contract.MOST_FLOAT:
        contract.fail(operation, "k_scale", "positive and finite", k_scale)
    if not 0.0 < v_scale <= contract.MOST_FLOAT:
        contract.fail(operation, "v_scale", "positive and finite", v_scale)
    return options
