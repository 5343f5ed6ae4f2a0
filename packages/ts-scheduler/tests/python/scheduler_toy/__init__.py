"""A toy language model over paged memory, its worker, and traces that drive a scheduler with it."""

from .model import VOCAB, generate_alone
from .trace import Asked, Trace

__all__ = ["VOCAB", "Asked", "Trace", "generate_alone"]
