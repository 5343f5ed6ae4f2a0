"""Writes compressed_tensors.safetensors: random matrices of every format, and what that library reads them as.

Usage: python make_compressed_tensors.py   (with compressed-tensors installed; the file was made by version 0.20.0)
"""

from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file
from torch import Tensor
from ts_modeling.testing import FORMATS, Format

SHAPES = {"fp8-block-ct": (20, 160)}


def read(kind: Format, stored: dict[str, Tensor]) -> Tensor:
    """The library's own result; factors go in as fp32, since it computes in their type."""
    weights = kind.config["config_groups"]["group_0"]["weights"]
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
    scale = stored["weight_scale"]
    given = {**stored, "weight_scale": scale if scale.dtype == torch.uint8 else scale.float()}
    whole: Tensor = BaseCompressor.get_value_from_registry(kind.config["format"]).decompress(given, scheme)["weight"]
    return whole.float().contiguous()


out: dict[str, Tensor] = {}
for name, kind in FORMATS.items():
    if kind.config["quant_method"] == "compressed-tensors":
        stored = kind.make(*SHAPES.get(name, (16, 128)), torch.Generator().manual_seed(len(name)))
        out |= {f"{name}/{suffix}": tensor for suffix, tensor in stored.items()}
        out[f"{name}/read"] = read(kind, stored)
save_file(out, Path(__file__).with_name("compressed_tensors.safetensors"))
