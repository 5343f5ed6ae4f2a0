"""A collective that has begun, and one that is waited for at once."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

StartedCollective = Callable[..., "Pending"]
"""Of local tensors and the batch."""
Collective = Callable[..., Any]
"""Of local tensors and the batch, too, but returns the result."""


class Pending:
    """``work`` under way, and what makes the result of what it leaves behind."""

    __slots__ = ("finish", "work")

    def __init__(self, work: Any, finish: Callable[[], Any]) -> None:
        self.work, self.finish = work, finish

    def wait(self) -> Any:
        """The result; on a CUDA device the stream waits, not the caller."""
        self.work.wait()
        return self.finish()


def waited(start: StartedCollective) -> Collective:
    """``start`` with the waiting done."""

    def run(*args: Any) -> Tensor:
        out: Tensor = start(*args).wait()
        return out

    return run
