"""What layers for multi-token prediction share, whatever their decoder layer: the frame and names."""

from .model import MultiToken
from .weights import table

__all__ = ["MultiToken", "table"]
