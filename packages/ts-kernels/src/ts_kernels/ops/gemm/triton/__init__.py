"""Matrix products in Triton, one kernel for all weight formats; and rows of a table."""

from .launch import linear, mlp
from .rows import gather_rows

__all__ = ["gather_rows", "linear", "mlp"]
