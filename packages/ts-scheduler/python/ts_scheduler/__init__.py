"""The control plane: requests, KV pages, prefix reuse, step plans."""

from ts_scheduler._core import (
    CacheGroup,
    Config,
    Plan,
    Rejection,
    Scheduler,
    Stats,
    Transfer,
    least_pages,
    transition_diagram,
)
from ts_scheduler.errors import SchedulerError, SettleError, TransferError

__all__ = [
    "CacheGroup",
    "Config",
    "Plan",
    "Rejection",
    "Scheduler",
    "SchedulerError",
    "SettleError",
    "Stats",
    "Transfer",
    "TransferError",
    "least_pages",
    "transition_diagram",
]
