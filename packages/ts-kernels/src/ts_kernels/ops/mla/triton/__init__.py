"""Latent attention in Triton: decode split over the keys, prefill in chunks of expanded keys."""

from .decode import decode, decode_absorbed
from .prefill import prefill

__all__ = ["decode", "decode_absorbed", "prefill"]
