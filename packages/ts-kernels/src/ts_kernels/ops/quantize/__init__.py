"""Weight formats. Legend: N outputs, K inputs."""

from .formats import (
    KINDS,
    Fp8BlockWeight,
    Fp8ChannelWeight,
    Int4Weight,
    Int8Weight,
    Mxfp4Weight,
    Nvfp4Weight,
    QuantizedWeight,
    quantize_fp8_block,
    quantize_fp8_channel,
    quantize_int4,
    quantize_int8,
    quantize_mxfp4,
    quantize_nvfp4,
)

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
