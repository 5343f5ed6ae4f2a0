"""Latent attention in Triton: decode split over the keys, prefill in chunks of expanded keys."""

from .decode import decode, decode_absorbed


__all__ = ["decode", "decode_absorbed"]
