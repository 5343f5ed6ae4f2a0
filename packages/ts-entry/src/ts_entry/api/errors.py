"""Errors of the API, each with its HTTP status, in OpenAI's shape.

ApiError
├── InvalidRequestError          400   a field is wrong, unknown, or asks for what is not built
│   └── ContextLengthError       400   the prompt does not fit into the context
├── AuthenticationError          401
├── NotFoundError                404   unknown path or model
├── MethodNotAllowedError        405
├── BodyTooLargeError            413
├── QueueFullError               429
├── InternalServerError          500
├── GenerationError              500   the engine could not go on with this request
└── UnavailableError             503   the engine does not serve now
"""

from typing import Any, ClassVar, Final

import msgspec

from ts_entry.engine.errors import EngineError, RequestFailedError, RequestRejectedError

RETRY_SECONDS: Final = 1
"""``Retry-After`` of a full queue; an unavailable engine takes ``RESTART_SECONDS``."""
RESTART_SECONDS: Final = 5


class ApiError(Exception):
    """What the client is told; ``param`` names the field, ``code`` is for programs."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    retry_after: ClassVar[int | None] = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message.encode(errors="replace").decode()  # JSON cannot carry unpaired surrogates
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """``{"error": {...}}``."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def encoded(self) -> bytes:
        """The body as JSON."""
        return msgspec.json.encode(self.body())

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Beyond content type and length."""
        return [] if self.retry_after is None else [(b"retry-after", str(self.retry_after).encode())]


class InvalidRequestError(ApiError):
    """A field is wrong, unknown, or asks for what is not built."""

    status = 400
    type = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    """The prompt does not fit."""

    def __init__(self, message: str, *, param: str | None) -> None:
        super().__init__(message, param=param, code="context_length_exceeded")


class AuthenticationError(ApiError):
    """The key is missing or wrong."""

    status = 401
    type = "invalid_request_error"

    def __init__(self) -> None:
        super().__init__(
            "Missing or wrong API key: send the header 'Authorization: Bearer KEY' with the key that the server was "
            "started with (--api-key).",
            code="invalid_api_key",
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"www-authenticate", b"Bearer")]


class NotFoundError(ApiError):
    """No such path or model."""

    status = 404
    type = "invalid_request_error"


class MethodNotAllowedError(ApiError):
    """The path exists, with other methods."""

    status = 405
    type = "invalid_request_error"


class BodyTooLargeError(ApiError):
    """The request body is longer than the limit."""

    status = 413
    type = "invalid_request_error"


class QueueFullError(ApiError):
    """Too many requests wait."""

    status = 429
    type = "rate_limit_error"
    retry_after = RETRY_SECONDS


class InternalServerError(ApiError):
    """A bug; the log has the trace."""

    def __init__(self) -> None:
        super().__init__("The server failed on this request; its log has the details.", code="internal_error")


class GenerationError(ApiError):
    """The engine could not go on with this request."""


class UnavailableError(ApiError):
    """The engine does not serve now."""

    status = 503
    type = "service_unavailable_error"
    retry_after = RESTART_SECONDS


def api_error(error: EngineError, *, param: str | None = None) -> ApiError:
    """What a client is told about an error of the engine; ``param`` names the field that held the prompt."""
    text = str(error)
    if isinstance(error, RequestFailedError):
        return GenerationError(_sentence(text), code="generation_failed")
    if not isinstance(error, RequestRejectedError):
        return UnavailableError(_sentence(text), code="engine_unavailable")
    if error.code == "queue_full":
        return QueueFullError(text, code="queue_full")
    if error.code == "too_long":
        return ContextLengthError(text, param=param)
    return InvalidRequestError(text, code=error.code)


def _sentence(text: str) -> str:
    """With a capital and one full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
