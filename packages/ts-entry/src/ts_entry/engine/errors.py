"""Errors of this package.

EngineError                    everything below
├── EngineUnavailableError     the engine is starting, draining, down, or went down with the request in flight
├── RequestRejectedError       the scheduler did not take the request; ``code`` says why
└── RequestFailedError         the engine took the request and could not go on with it
"""

from ts_protocol.messages import RejectionCode


class EngineError(Exception):
    """Base of every error of the engine client; its text is one sentence for a person."""


class EngineUnavailableError(EngineError):
    """The engine does not serve now; the text says what it does instead. Trying again later may help."""


class RequestRejectedError(EngineError):
    """The scheduler did not take the request."""

    def __init__(self, code: RejectionCode, message: str) -> None:
        super().__init__(message)
        self.code: RejectionCode = code


class RequestFailedError(EngineError):
    """The engine took the request and could not go on with it; other requests are not concerned."""
