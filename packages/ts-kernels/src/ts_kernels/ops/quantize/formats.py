"""Every weight format, and how to make one of a float tensor (for tests and tools)."""

from .base import QuantizedWeight
from .fp4 import Mxfp4Weight, Nvfp4Weight, quantize_mxfp4, quantize_nvfp4
from .fp8 import Fp8BlockWeight, Fp8ChannelWeight, quantize_fp8_block, quantize_fp8_channel
from .integer import Int4Weight, Int8Weight, quantize_int4, quantize_int8

__all__ = [
    "KINDS",
    "Fp8BlockWeight",
    "Fp8ChannelWeight",
    "Int4Weight",
    "Int8Weight",
    "Mxfp4Weight",
    "Nvfp4Weight",
    "QuantizedWeight",
    "quantize_fp8_block",
    "quantize_fp8_channel",
    "quantize_int4",
    "quantize_int8",
    "quantize_mxfp4",
    "quantize_nvfp4",
]

KINDS = ("int4", "int4-zp", "int8", "fp8-block", "fp8-channel", "mxfp4", "nvfp4")
