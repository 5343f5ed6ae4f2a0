"""Paged attention in Triton: decode, prefill, merge."""

from .decode import decode
from .merge import merge
from .prefill import prefill

__all__ = ["decode", "merge", "prefill"]
