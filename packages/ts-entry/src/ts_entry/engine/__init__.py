"""The engine as the HTTP API sees it: requests in, tokens out, health and counters."""

from ts_entry.engine.client import EngineClient
from ts_entry.engine.errors import EngineError, EngineUnavailableError, RequestFailedError, RequestRejectedError
from ts_entry.engine.health import EngineState
from ts_entry.engine.mailbox import ClientGone, EngineLost, Mailbox

__all__ = [
    "ClientGone",
    "EngineClient",
    "EngineError",
    "EngineLost",
    "EngineState",
    "EngineUnavailableError",
    "Mailbox",
    "RequestFailedError",
    "RequestRejectedError",
]
