"""Builds of ts_kernels.ops.moe.triton: Kimi K2.5 on four GPUs, and GPT-OSS and DeepSeek-V3 formats at its sizes."""

import triton.language as tl

from . import Build

_POINTERS = {"x": "*bf16", "row_scale": "*fp32", "bias": "*fp32", "pairs": "*i32", "blocks": "*i32", "out": "*bf16"}
_SCALARS = {"P": "i32", "N": "i32", "K": "i32", "choices": "i32", "x_stride": "i32", "alpha": "fp32", "limit": "fp32"}
# values, scale, zero; FORMAT, GROUP
_FORMATS: dict[str, tuple[tuple[str, str, str], int, int]] = {
    "bf16": (("*bf16", "*bf16", "*bf16"), 0, 128),
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
# Prefill's stages, and where shared memory holds them.
_TARGETS = {2: ("sm_120", "gfx942", "gfx950"), 3: ("sm_90", "sm_100")}


def aot_builds() -> list[Build]:
    """Decode and prefill of every format; the steps around the products."""
    decode = [_grouped(name, 16, 64, 4, 4, gate=-1, split=8, out="*fp32") for name in _DECODE]
    down = [_grouped(name, 16, 128, 4, 4) for name in ("bf16", "int4", "mxfp4")]
    prefill = [
        _grouped(name, 64, 128, 8 if name == "fp8-block" else 4, stages, gate=0)
        for name in _FORMATS
        for stages in _TARGETS
    ]
    gpt_oss = _grouped("mxfp4", 64, 128, 4, 2, gate=1, interleaved=True, bias=True, even=False)
    wide = [_grouped("int4", 128, 128, 8, stages, gate=0) for stages in _TARGETS]
    return [*decode, *down, *prefill, gpt_oss, *wide, *_steps()]


def _grouped(
    name: str,
    block_m: int,
    block_n: int,
    warps: int,
    stages: int,
    *,
    gate: int = -1,
    split: int = 1,
    out: str = "*bf16",
    interleaved: bool = False,
    bias: bool = False,
    even: bool = True,
) -> Build:
    (values, scale, zero), code, group = _FORMATS[name]
    signature = {**_POINTERS, "values": values, "scale": scale, "zero": zero, "out": out, **_SCALARS}
    constexprs = {
        "FORMAT": code, "GROUP": group, "ASYMMETRIC": name == "int4-zp", "HAS_BIAS": bias, "GATE": gate,
        "INTERLEAVED": interleaved, "SPLIT": split, "EVEN_K": even, "COMPUTE": tl.bfloat16,
        "BLOCK_M": block_m, "BLOCK_N": block_n,
    }  # fmt: skip
    suffix = "" if gate < 0 else ".interleaved" if interleaved else f".gated.{stages}"
    return Build(
        name=f"moe.grouped.{name}.{block_m}x{block_n}{suffix}",
        targets=_TARGETS[stages] if suffix.startswith(".gated") else (),
        kernel="moe.triton.gemm:grouped_kernel",
        signature=signature,
        constexprs=constexprs,
        num_warps=warps,
        num_stages=stages,
        spills={"sm_100": 4},  # one register of the gated INT4 tile of 64 x 128
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
