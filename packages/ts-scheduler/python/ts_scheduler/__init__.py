"""The control plane: requests, KV pages, prefix reuse, step plans."""

from ts_scheduler._core import Config, Plan, Rejection, Scheduler, Stats, Transfer, transition_diagram
from ts_scheduler.errors import SchedulerError, SettleError, TransferError

__all__ = [
    "Config",
    "Plan",
    "Rejection",
    "Scheduler",
    "SchedulerError",
    "SettleError",
    "Stats",
    "Transfer",
    "TransferError",
    "transition_diagram",
]
