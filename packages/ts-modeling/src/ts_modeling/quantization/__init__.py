"""Formats of quantized checkpoints.

``parse_quantization`` reads ``config.json``; ``Quantization.scheme_of`` gives the ``Scheme`` of a module, which layers
take (``Linear(scheme=)``) and tables of checkpoint names list (``checkpoint.linear_entries``).
"""

from typing import Any, Final

from .compressed_tensors import parse_compressed_tensors
from .config import NAME, Group, Quantization, expect, scheme_of
from .integer import PackedInt
from .scheme import BIAS, PLAIN, Field, Plain, Scheme, dequantized, of_one_format

METHODS: Final = {"compressed-tensors": parse_compressed_tensors}

__all__ = [
    "BIAS",
    "PLAIN",
    "Field",
    "Group",
    "PackedInt",
    "Plain",
    "Quantization",
    "Scheme",
    "dequantized",
    "of_one_format",
    "parse_quantization",
    "scheme_of",
]


def parse_quantization(raw: Any) -> Quantization | None:
    """Read ``quantization_config``; None where there is none. Raises ``ConfigError`` naming the field."""
    if raw is None:
        return None
    return METHODS[expect(raw, "quant_method", tuple(METHODS), NAME)](raw)
