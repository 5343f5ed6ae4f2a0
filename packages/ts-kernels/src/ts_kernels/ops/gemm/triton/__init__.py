"""Matrix products in Triton: one kernel for all weight formats."""

from .launch import linear, mlp

__all__ = ["linear", "mlp"]
