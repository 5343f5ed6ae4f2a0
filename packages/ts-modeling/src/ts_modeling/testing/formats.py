"""Every weight format as a checkpoint holds it: random codes and factors, and what they mean.

Nothing here shares code with ``quantization`` or the kernels: ``meaning`` is written from the formats' descriptions,
and held against the compressed-tensors library's own results. Legend: N outputs, K inputs, G groups.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Generator, Tensor

E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
Stored = dict[str, Tensor]
"""The tensors of one matrix by suffix: ``weight_packed`` and so on."""


@dataclass(frozen=True)
class Format:
    """``config`` is its ``quantization_config`` without a list of modules; ``make`` draws a matrix [n, k]."""

    config: Mapping[str, Any]
    make: Callable[[int, int, Generator], Stored]


def meaning(stored: Stored) -> Tensor:
    """The matrix that stored tensors stand for, fp32 [N, K]; tensors of a stack [..., N, K] of them too."""
    if "weight_scale_inv" in stored:
        return _blocked(stored["weight"].float(), stored["weight_scale_inv"].float(), 128)
    if "blocks" in stored:
        return _grouped(_e2m1(stored["blocks"]).flatten(-2), _exponents(stored["scales"]))
    if "weight_packed" not in stored:
        return _unpacked(stored)
    packed, scale = stored["weight_packed"], stored["weight_scale"]
    if packed.dtype == torch.uint8 and scale.dtype == torch.uint8:
        return _grouped(_e2m1(packed), _exponents(scale))
    if packed.dtype == torch.uint8:
        return _grouped(_e2m1(packed), scale.float()) / stored["weight_global_scale"]
    columns = int(stored["weight_shape"][1])
    bits = 32 * packed.shape[1] // columns
    values, zeros = _words(packed, bits), torch.full(scale.shape, float(1 << (bits - 1)))
    if "weight_zero_point" in stored:
        zeros = _words(stored["weight_zero_point"].T.contiguous(), bits).T[: packed.shape[0]]
    return _grouped(values, scale.float(), zeros)


def _unpacked(stored: Stored) -> Tensor:
    """Formats that have a ``weight``."""
    weight = stored["weight"]
    if "weight_scale" not in stored:
        return weight.float()
    scale = stored["weight_scale"].float()
    if "weight_scale_2" in stored:
        return _grouped(_e2m1(weight), scale) * stored["weight_scale_2"]
    if weight.dtype == torch.int8:
        return _grouped(weight.float(), scale, stored.get("weight_zero_point", torch.zeros(scale.shape)).float())
    if scale.dim() == 2 and scale.shape != (weight.shape[0], 1):
        return _blocked(weight.float(), scale, 128)
    return weight.float() * scale.reshape(-1, 1)


def _blocked(values: Tensor, scale: Tensor, block: int) -> Tensor:
    rows, columns = values.shape[-2:]
    return values * torch.kron(scale, torch.ones(block, block))[..., :rows, :columns]


def _grouped(values: Tensor, scale: Tensor, zeros: Tensor | None = None) -> Tensor:
    per = values.shape[-1] // scale.shape[-1]
    shifted = values if zeros is None else values - zeros.repeat_interleave(per, -1)
    return shifted * scale.repeat_interleave(per, -1)


def _e2m1(packed: Tensor) -> Tensor:
    codes = torch.stack((packed % 16, packed // 16), -1).flatten(-2).int()
    return torch.tensor(E2M1)[codes % 8] * (1 - 2 * (codes // 8))


def _exponents(codes: Tensor) -> Tensor:
    return torch.ldexp(torch.ones(codes.shape), codes.int() - 127)


def _words(words: Tensor, bits: int) -> Tensor:
    """int32 [N, W] to stored values fp32 [N, W * 32/bits], the lowest bits first."""
    unsigned = words.long() % (1 << 32)
    return torch.stack([unsigned >> s & ((1 << bits) - 1) for s in range(0, 32, bits)], -1).flatten(-2).float()


def _bits(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Tensor:
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max, shape, dtype=dtype, generator=generator)


def _scale(shape: tuple[int, ...], mean: float, generator: Generator) -> Tensor:
    return mean * (0.5 + torch.rand(shape, generator=generator))


def _packed(bits: int, group: int, symmetric: bool) -> Callable[[int, int, Generator], Stored]:
    def make(n: int, k: int, g: Generator) -> Stored:
        each, groups = 32 // bits, k // group if group else 1
        out = {
            "weight_packed": _bits((n, -(-k // each)), torch.int32, g),
            "weight_scale": _scale((n, groups), k**-0.5 / 2**bits * 3, g).bfloat16(),
            "weight_shape": torch.tensor([n, k]),
        }
        if not symmetric:
            out["weight_zero_point"] = _bits((-(-n // each), groups), torch.int32, g)
        return out

    return make


def _int8(n: int, k: int, g: Generator) -> Stored:
    return {"weight": _bits((n, k), torch.int8, g), "weight_scale": _scale((n, 1), k**-0.5 / 80, g).bfloat16()}


def _e4m3(shape: tuple[int, ...], g: Generator) -> Tensor:
    return (torch.randn(shape, generator=g) * 100).clamp(-448, 448).to(torch.float8_e4m3fn)


def _fp8(suffix: str, shape: Callable[[int, int], tuple[int, ...]], *beside: str) -> Callable[..., Stored]:
    def make(n: int, k: int, g: Generator) -> Stored:
        out = {"weight": _e4m3((n, k), g), suffix: _scale(shape(n, k), k**-0.5 / 100, g)}
        return out | {name: torch.ones(1) for name in beside}

    return make


def _mxfp4(n: int, k: int, g: Generator) -> Stored:
    exponents = torch.randint(120, 124, (n, k // 32), dtype=torch.uint8, generator=g)
    return {"weight_packed": _bits((n, k // 2), torch.uint8, g), "weight_scale": exponents}


def _nvfp4(n: int, k: int, g: Generator) -> Stored:
    factors = _scale((n, k // 16), 200.0, g).to(torch.float8_e4m3fn)
    whole = torch.tensor([600 * k**0.5]) * (1 + torch.rand(1, generator=g))
    return {
        "weight_packed": _bits((n, k // 2), torch.uint8, g),
        "weight_scale": factors,
        "weight_global_scale": whole,
        "input_global_scale": torch.ones(1),
    }


def _modelopt(n: int, k: int, g: Generator) -> Stored:
    made = _nvfp4(n, k, g)
    return {
        "weight": made["weight_packed"],
        "weight_scale": made["weight_scale"],
        "weight_scale_2": (1 / made["weight_global_scale"])[0],
        "input_scale": torch.tensor(1.0),
    }


def ct_group(weights: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """One of compressed-tensors' ``config_groups``, for all Linear modules unless told otherwise."""
    return {"targets": ["Linear"], "weights": {"symmetric": True, "dynamic": False, **weights}, **more}


def _ct(kind: str, weights: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": kind,
        "config_groups": {"group_0": ct_group(weights, **more)},
    }


def _ints(bits: int, group: int, *, symmetric: bool = True) -> Format:
    weights = {"type": "int", "num_bits": bits, "strategy": "group" if group else "channel", "symmetric": symmetric}
    weights |= {"group_size": group} if group else {"group_size": None}
    return Format(_ct("pack-quantized", weights), _packed(bits, group, symmetric))


_FLOAT8: Final = {"type": "float", "num_bits": 8}
_FLOAT4: Final = {"type": "float", "num_bits": 4, "strategy": "tensor_group"}
_DYNAMIC: Final = {"type": "float", "num_bits": 8, "strategy": "token", "dynamic": True, "symmetric": True}
_BLOCKS: Final = {**_FLOAT8, "strategy": "block", "block_structure": [128, 128]}
_STATIC: Final = {**_DYNAMIC, "dynamic": False, "strategy": "tensor"}


def _blocks_of(n: int, k: int) -> tuple[int, ...]:
    return -(-n // 128), -(-k // 128)


FORMATS: Final[Mapping[str, Format]] = {
    "int4-32": _ints(4, 32),
    "int4-64": _ints(4, 64),
    "int4-128": _ints(4, 128),
    "int4-channel": _ints(4, 0),
    "int4-zeros-32": _ints(4, 32, symmetric=False),
    "int4-zeros-channel": _ints(4, 0, symmetric=False),
    "int8-32": _ints(8, 32),
    "int8-channel": _ints(8, 0),
    "int8-zeros-32": _ints(8, 32, symmetric=False),
    "int8-bytes": Format(
        _ct("int-quantized", {"type": "int", "num_bits": 8, "strategy": "channel"}, input_activations=_DYNAMIC), _int8
    ),
    "fp8-block": Format(
        {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]},
        _fp8("weight_scale_inv", _blocks_of),
    ),
    "fp8-block-ct": Format(
        _ct("float-quantized", _BLOCKS, input_activations=_DYNAMIC), _fp8("weight_scale", _blocks_of)
    ),
    "fp8-channel": Format(
        _ct("float-quantized", {**_FLOAT8, "strategy": "channel"}, input_activations=_DYNAMIC),
        _fp8("weight_scale", lambda n, k: (n, 1)),
    ),
    "fp8-tensor": Format(
        _ct("float-quantized", {**_FLOAT8, "strategy": "tensor"}, input_activations=_STATIC),
        _fp8("weight_scale", lambda n, k: (1,), "input_scale"),
    ),
    "mxfp4": Format(_ct("mxfp4-pack-quantized", {**_FLOAT4, "strategy": "group", "group_size": 32}), _mxfp4),
    "nvfp4": Format(
        _ct("nvfp4-pack-quantized", {**_FLOAT4, "group_size": 16}, input_activations={**_FLOAT4, "dynamic": "local"}),
        _nvfp4,
    ),
    "nvfp4-modelopt": Format({"quant_method": "modelopt", "quant_algo": "NVFP4"}, _modelopt),
    "fp8-modelopt": Format(
        {"quant_method": "modelopt", "quant_algo": "FP8"}, _fp8("weight_scale", lambda n, k: (), "input_scale")
    ),
}
