"""Formats of quantized checkpoints.

``parse_quantization`` reads ``config.json``; ``Quantization.scheme_of`` gives the ``Scheme`` of a module, which layers
take (``Linear(scheme=)``) and tables of checkpoint names list (``checkpoint.linear_entries``).
"""

from typing import Any, Final

from .compressed_tensors import parse_compressed_tensors
from .config import CACHE_SCALES, NAME, Group, Quantization, expect, scheme_of
from .fp4 import Mxfp4, Nvfp4
from .fp8 import Fp8Block, Fp8Channel
from .integer import Int8, PackedInt
from .others import parse_fp8, parse_modelopt, parse_mxfp4
from .scheme import BIAS, PLAIN, Field, Plain, Scheme, dequantized, of_one_format

METHODS: Final = {
    "compressed-tensors": parse_compressed_tensors,
    "fp8": parse_fp8,
    "mxfp4": parse_mxfp4,
    "modelopt": parse_modelopt,
}

__all__ = [
    "BIAS",
    "CACHE_SCALES",
    "PLAIN",
    "Field",
    "Fp8Block",
    "Fp8Channel",
    "Group",
    "Int8",
    "Mxfp4",
    "Nvfp4",
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
