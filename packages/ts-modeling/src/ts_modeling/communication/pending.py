"""A collective that has begun, one that is waited for at once, and one that fails."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import CommunicationError

StartedCollective = Callable[..., "Pending"]
"""Of local tensors and the batch."""
Collective = Callable[..., Any]
"""Of local tensors and the batch, too, but returns the result."""


class Pending:
    """``work`` under way, what makes the result of what it leaves behind, and ``what`` it is in an error."""

    __slots__ = ("finish", "what", "work")

    def __init__(self, work: Any, finish: Callable[[], Any]) -> None:
        self.work, self.finish, self.what = work, finish, "a collective"

    def wait(self) -> Any:
        """The result; on a CUDA device the stream waits, not the caller. Raises ``CommunicationError``."""
        try:
            self.work.wait()
        except RuntimeError as error:
            raise lost(self.what, error) from error
        return self.finish()


def waited(start: StartedCollective) -> Collective:
    """``start`` with the waiting done."""

    def run(*args: Any) -> Tensor:
        out: Tensor = start(*args).wait()
        return out

    return run


def named(start: StartedCollective, what: str) -> StartedCollective:
    """``start`` whose failures say ``what`` failed, as ``CommunicationError``."""

    def run(*args: Any) -> Pending:
        try:
            pending = start(*args)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # dispatch waits for counts as it starts; NCCL refuses a broken group here
            raise lost(what, error) from error
        pending.what = what
        return pending

    return run


def lost(what: str, error: RuntimeError) -> CommunicationError:
    """The error of a rank that waits in vain: torch's own says neither who nor for what."""
    me = f"rank {dist.get_rank()}" if dist.is_initialized() else "this rank"
    return CommunicationError(
        f"{what} failed on {me}: another rank has ended, failed, or did not come in time; its own output says why, and "
        f"the ranks have to be started again ({str(error).partition(chr(10))[0]})"
    )
