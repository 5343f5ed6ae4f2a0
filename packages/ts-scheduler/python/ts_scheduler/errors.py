"""What can go wrong in the scheduler.

SchedulerError
├── ConfigError     a limit that no scheduler can be made with
├── SettleError     a worker's result does not fit what was planned
├── TransferError   the end of a transfer that is not under way
└── PeerLostError   a process that the scheduler cannot go on without has gone, or speaks out of turn
"""

from typing import Literal

TransferCode = Literal["unknown_transfer"]
SettleCode = Literal[
    "unknown_step", "out_of_order", "wrong_count", "wrong_accepted", "invalid_token", "invalid_duration"
]


class SchedulerError(Exception):
    """Base of this package's errors."""


class ConfigError(SchedulerError):
    """A limit that no scheduler can be made with; the message names the field."""


class SettleError(SchedulerError):
    """A step result that does not fit what was planned; the scheduler is as it was before.

    ``code`` is one of ``SettleCode``; ``message`` names the step and the fix.
    """

    def __init__(self, code: SettleCode, message: str) -> None:
        super().__init__(message)
        self.code: SettleCode = code
        self.message = message


class TransferError(SchedulerError):
    """The end of a transfer that is not under way; the scheduler is as it was before."""

    def __init__(self, code: TransferCode, message: str) -> None:
        super().__init__(message)
        self.code: TransferCode = code
        self.message = message


class PeerLostError(SchedulerError):
    """A process that the scheduler cannot go on without has gone, or speaks out of turn."""
