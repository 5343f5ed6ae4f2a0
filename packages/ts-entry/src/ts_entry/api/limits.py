"""Bounds on what one request may ask."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one request. A request beyond one of them is refused with a message that names it."""

    body_bytes: int = 32 * 1024 * 1024
    messages: int = 4096
    tools: int = 512
    prompts: int = 64
    """Prompts of one text completion request."""
    stops: int = 16
    stop_characters: int = 256
    stop_token_ids: int = 64
    label_characters: int = 256
    """Of ``user``, ``safety_identifier`` and ``cache_salt``."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise ValueError(f"limit {name} is {getattr(self, name)}; it has to be at least 1")
