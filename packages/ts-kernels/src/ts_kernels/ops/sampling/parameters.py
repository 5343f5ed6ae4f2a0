"""What parameters of a draw and of penalties may be. Reads them; the native kernels check the same by themselves."""

from torch import Tensor

from ... import contract


def check_draw(operation: str, temperature: Tensor, top_p: Tensor, min_p: Tensor | None) -> None:
    """Temperatures are finite, top_p and min_p numbers; raises ``ContractError``."""
    _all(operation, "temperature", temperature, temperature.isfinite(), "finite")
    for name, bound in (("top_p", top_p), ("min_p", min_p)):
        if bound is not None:
            _all(operation, name, bound, ~bound.isnan(), "a number")


def check_penalties(operation: str, slots: Tensor, repetition: Tensor, presence: Tensor, frequency: Tensor) -> None:
    """Rows that have a slot have finite penalties; raises ``ContractError``."""
    free = slots < 0
    for name, penalty in (("repetition", repetition), ("presence", presence), ("frequency", frequency)):
        _all(operation, name, penalty, free | penalty.isfinite(), "finite")


def _all(operation: str, argument: str, values: Tensor, good: Tensor, expected: str) -> None:
    if not bool(good.all()):
        contract.fail(operation, argument, expected, f"{float(values[~good][0])}")
