"""Builds of ts_kernels.ops.moe.triton: Kimi K2.5 on four GPUs, and GPT-OSS and DeepSeek-V3 formats at its sizes."""

import triton.language as tl

from ..platform import described
from . import Build
from ._targets import DEFAULT

_POINTERS = {"x": "*bf16", "row_scale": "*fp32", "bias": "*fp32", "pairs": "*i32", "blocks": "*i32", "out": "*bf16"}
_SCALARS = {"P": "i32", "N": "i32", "K": "i32", "choices": "i32", "x_stride": "i32", "alpha": "fp32", "limit": "fp32"}
# values, scale, zero; FORMAT, GROUP
_FORMATS: dict[str, tuple[tuple[str, str, str], int, int]] = {
    "bf16": (("*bf16", "*bf16", "*bf16"), 0, 128),
    "fp32": (("*fp32", "*fp32", "*fp32"), 0, 128),
    "int4": (("*u8", "*bf16", "*bf16"), 1, 32),
    "int4-zp": (("*u8", "*bf16", "*bf16"), 1, 64),
    "mxfp4": (("*u8", "*u8", "*u8"), 2, 32),
    "nvfp4": (("*u8", "*u8", "*u8"), 3, 16),
    "fp8-block": (("*u8", "*fp32", "*fp32"), 4, 128),
    "fp8-channel": (("*u8", "*fp32", "*fp32"), 5, 128),
    "int8": (("*u8", "*fp32", "*fp32"), 6, 128),
    "int8-group": (("*u8", "*bf16", "*bf16"), 7, 32),
}
_DECODE = ("int4", "int8", "int8-group", "fp8-block")
# Prefill's stages and warps differ.
_TARGETS = {"nvidia": ("sm_90", "sm_100"), "sm_120": ("sm_120",), "amd": ("gfx942", "gfx950")}
_PAIRS = {16: 1, 64: 64, 128: 512}  # of each expert, for blocks so high
# One or two registers; of fp32, which no tensor core multiplies, 128 x 128 fill them.
_SPILLS = {"sm_100": 4, "sm_120": 8}
_SPILLS_WIDE = {"sm_100": 92}


def aot_builds() -> list[Build]:
    """Decode and prefill of every format; the steps around the products."""
    decode = [_grouped(name, 16, 2048, gate=-1, split=8, out="*fp32") for name in _DECODE]
    down = [_grouped(name, 16, 7168) for name in ("bf16", "int4", "mxfp4")]
    formats = [name for name in _FORMATS if name != "fp32"]
    prefill = [_grouped(name, 64, 1024, kind, gate=0) for name in formats for kind in _TARGETS]
    gpt_oss = [_grouped("mxfp4", 64, 5760, kind, gate=1, interleaved=True, bias=True, even=False) for kind in _TARGETS]
    wide = [_grouped("int4", 128, 1024, kind, gate=0) for kind in _TARGETS]
    # The widest numbers: as many stages as there is shared memory for.
    most = [
        _grouped("fp32", high, n, target) for high, n in ((16, 7168), (64, 7168), (128, 7168)) for target in DEFAULT
    ]
    return [*decode, *down, *prefill, *gpt_oss, *wide, *most, *_steps()]


def _grouped(
    name: str,
    block_m: int,
    rows: int,
    kind: str = "",
    *,
    gate: int = -1,
    split: int = 1,
    out: str = "",
    interleaved: bool = False,
    bias: bool = False,
    even: bool = True,
) -> Build:
    """As a launch for ``kind`` of devices, or for all, has it."""
    from ..ops.moe.triton.launch import launch

    (values, scale, zero), code, group = _FORMATS[name]
    targets = _TARGETS.get(kind, (kind,) if kind else DEFAULT)
    number, size = ("*fp32", 4) if name == "fp32" else ("*bf16", 2)
    form = "dense" if name in ("bf16", "fp32") else name
    pairs, device = 8 * _PAIRS[block_m], described(targets[0])
    plan = launch(form, pairs, 8, rows, 7168, gated=gate >= 0, device=device, size=size)
    signature = {
        **_POINTERS,
        "x": number,
        "values": values,
        "scale": scale,
        "zero": zero,
        "out": out or number,
        **_SCALARS,
    }
    constexprs = {
        "FORMAT": code, "GROUP": group, "ASYMMETRIC": name == "int4-zp", "HAS_BIAS": bias, "GATE": gate,
        "INTERLEAVED": interleaved, "SPLIT": split, "EVEN_K": even,
        "COMPUTE": tl.float32 if name == "fp32" else tl.bfloat16, "BLOCK_M": plan.block_m, "BLOCK_N": plan.block_n,
    }  # fmt: skip
    suffix = ".interleaved" if interleaved else ".gated" if gate >= 0 else ""
    return Build(
        name=f"moe.grouped.{name}.{plan.block_m}x{plan.block_n}{suffix}" + (kind and f".{kind}"),
        targets=targets if kind else (),
        kernel="moe.triton.gemm:grouped_kernel",
        signature=signature,
        constexprs=constexprs,
        num_warps=plan.warps,
        num_stages=plan.stages,
        spills=_SPILLS_WIDE if (name, block_m) == ("fp32", 128) else _SPILLS,
        aligned=("x", "values", "scale", "zero", "row_scale", "bias", "pairs", "blocks", "out", "N", "K", "x_stride"),
    )


def _steps() -> list[Build]:
    route = {"weights": "*fp32", "ids": "*i32", "stride": "i32", "E": "i32", "scale": "fp32"}
    places = {"pairs": "*i32", "blocks": "*i32", "offsets": "*i32", "P": "i32", "E": "i32", "places": "i32"}
    counts = {"ids": "*i32", "counts": "*i32", "totals": "*i32"}
    kimi = {"TOP_K": 8, "GROUPS": 1, "KEPT": 1, "NORMALIZE": True, "SINGLE": False, "G": 1, "S": 512, "K": 8}
    deepseek = {**kimi, "GROUPS": 8, "KEPT": 4, "G": 8, "S": 32}
    at = "moe.triton."
    logits = {"logits": "*fp32", **route}
    gate = {"parts": "*fp32", "ids": "*i32", "bias": "*fp32", "out": "*bf16", "P": "i32", "E": "i32", "N": "i32",
            "alpha": "fp32", "limit": "fp32"}  # fmt: skip
    total = {"values": "*bf16", "weights": "*fp32", "ids": "*i32", "base": "*bf16", "out": "*bf16",
             "base_stride": "i32", "E": "i32", "D": "i32", "k": "i32"}  # fmt: skip
    tile = {"CHUNK": 128, "TILE": 32}
    return [
        Build("moe.route_sigmoid.384", at + "route:sigmoid_kernel", {"bias": "*fp32", **logits}, kimi, 2, 1),
        Build("moe.route_sigmoid.256in8", at + "route:sigmoid_kernel", {"bias": "*fp32", **logits}, deepseek, 1, 1),
        Build("moe.route_softmax.128", at + "route:softmax_kernel", logits,
              {"TOP_K": 4, "NORMALIZE": True, "S": 128, "K": 4}, 1, 1),
        Build("moe.permute.place.alone", at + "permute:place_kernel", {**counts, **places},
              {"ALONE": True, "B": 16, **tile}, 4, 1),
        Build("moe.permute.place", at + "permute:place_kernel", {**counts, **places},
              {"ALONE": False, "B": 64, **tile}, 4, 1),
        Build("moe.permute.count", at + "permute:count_kernel", {"ids": "*i32", "counts": "*i32", "P": "i32",
              "E": "i32"}, tile, 4, 1),
        Build("moe.permute.scan", at + "permute:scan_kernel", {"counts": "*i32", "totals": "*i32", "chunks": "i32",
              "E": "i32"}, {"CHUNKS": 64, "TILE": 32}, 4, 1),
        Build("moe.gate.split8", at + "gemm:gate_kernel", gate,
              {"SPLIT": 8, "HAS_BIAS": False, "GATE": 0, "INTERLEAVED": False, "BLOCK": 512}, 4, 1),
        Build("moe.combine", at + "combine:combine_kernel", total, {"HAS_BASE": True, "BLOCK": 1024}, 4, 1),
    ]  # fmt: skip
