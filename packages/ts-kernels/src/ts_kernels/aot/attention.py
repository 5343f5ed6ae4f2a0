"""Builds of ts_kernels.ops.attention.triton: the groups and widths of the models served.

GPT-OSS: 64 heads of 64 over 8, window 128 and sinks. Llama 3 and Qwen 3: 32 heads of 128 over 8. MiniMax M2: 48 heads
of 128 over 8, a group of 6. Gemma 2: 16 heads of 256 over 8, soft cap and window.
"""

from collections.abc import Mapping

from ..platform import described
from . import Build
from ._targets import DEFAULT

_POINTERS = ("q", "k_cache", "v_cache", "tables", "lengths", "sinks", "out", "lse")
_SCALARS = {
    "q_stride": "i32",
    "table_stride": "i32",
    "k_page": "i32",
    "v_page": "i32",
    "scale": "fp32",
    "soft_cap": "fp32",
    "v_scale": "fp32",
    "window": "i32",
}
_ALIGNED = (*_POINTERS, "q_stride", "k_page", "v_page")
# Prefill's tiles differ.
_TARGETS = {"nvidia": ("sm_90", "sm_100"), "sm_120": ("sm_120",), "amd": ("gfx942", "gfx950")}
# name: heads of the cache, group, width, then whether there are a window, a cap and sinks
_MODELS = {
    "gpt_oss": (8, 8, 64, True, False, True),
    "llama": (8, 4, 128, False, False, False),
    "minimax": (8, 6, 128, False, False, False),
    "gemma": (8, 2, 256, True, True, False),
}


def aot_builds() -> list[Build]:
    """Decode of one and of four queries, prefill, an FP8 cache, other page sizes, merge and write."""
    builds = [_decode(model, queries) for model in _MODELS for queries in (1, 4)]
    for kind in _TARGETS:
        builds += [_prefill(model, kind) for model in _MODELS]
        builds += [_prefill("llama", kind, cache="fp8e4nv"), _prefill("llama", kind, dtype="fp32")]
    builds += [_decode("llama", 1, cache="fp8e4nv"), _decode("llama", 8, page=64), _decode("llama", 1, dtype="fp32")]
    builds += [_decode("gemma", 1, dtype="fp32", target=target) for target in DEFAULT]  # as many stages as fit
    return [*builds, _merge(64, 64, sinks=True), _merge(32, 128, sinks=False), _write("bf16"), _write("fp8e4nv")]


def _decode(
    model: str, queries: int, *, dtype: str = "bf16", cache: str = "", page: int = 16, target: str = ""
) -> Build:
    cache = cache or dtype
    constants, warps, stages = _constants(model, queries, dtype, page, target or DEFAULT[0])
    constants |= {"SPLITS": 32, "MIN_SPLIT": 256, "SINKS": False}
    return Build(
        name=f"attention.decode.{model}.q{queries}.{dtype}.{cache}.page{page}" + (target and f".{target}"),
        kernel="attention.triton.decode:decode_kernel",
        signature=_signature(dtype, cache, "fp32", {"queries": "i32", "tokens": "i32"}),
        constexprs=constants,
        num_warps=warps,
        num_stages=stages,
        aligned=_ALIGNED,
        targets=(target,) if target else (),
    )


def _prefill(model: str, kind: str, *, dtype: str = "bf16", cache: str = "", page: int = 16) -> Build:
    cache = cache or dtype
    constants, warps, stages = _constants(model, None, dtype, page, _TARGETS[kind][0])
    return Build(
        name=f"attention.prefill.{model}.{dtype}.{cache}.page{page}.{kind}",
        kernel="attention.triton.prefill:prefill_kernel",
        signature=_signature(dtype, cache, dtype, {"cu_q": "*i32", "rows": "i32", "steps": "i32"}),
        constexprs=constants,
        num_warps=warps,
        num_stages=stages,
        aligned=(*_ALIGNED, "cu_q"),
        spills={"sm_120": 4},  # one register of MiniMax's group of 6
        targets=_TARGETS[kind],
    )


def _constants(
    model: str, queries: int | None, dtype: str, page: int, target: str
) -> tuple[dict[str, object], int, int]:
    """(compile-time values, warps, stages) as the launch chooses them."""
    import triton.language as tl

    from ..ops.attention.triton._launch import tiles

    shared, group, width, window, capped, sinks = _MODELS[model]
    size, dot = {"bf16": (2, tl.bfloat16), "fp32": (4, tl.float32)}[dtype]
    shape = tiles((queries or 0) * group, width, size, prefill=queries is None, device=described(target))
    constants: dict[str, object] = {
        "GROUP": group,
        "H_KV": shared,
        "D": width,
        "V": width,
        "PAGE": page,
        "BLOCK_M": shape.block_m,
        "BLOCK_N": shape.block_n,
        "BLOCK_D": width,
        "BLOCK_V": width,
        "WINDOW": window,
        "CAPPED": capped,
        "SINKS": sinks,
        "DOT": dot,
    }
    return constants, shape.warps, shape.stages


def _signature(dtype: str, cache: str, out: str, more: Mapping[str, str]) -> dict[str, str]:
    pointers = {"q": dtype, "k_cache": cache, "v_cache": cache, "tables": "i32", "lengths": "i32", "sinks": "fp32"}
    pointers |= {"out": out, "lse": "fp32"}
    return {name: f"*{kind}" for name, kind in pointers.items()} | _SCALARS | dict(more)


def _merge(heads: int, width: int, *, sinks: bool) -> Build:
    pointers = {name: f"*{'bf16' if name == 'out' else 'fp32'}" for name in ("outs", "lses", "sinks", "out", "lse")}
    return Build(
        name=f"attention.merge.{heads}.{width}",
        kernel="attention.triton.merge:merge_kernel",
        signature={**pointers, "parts": "i32", "rows": "i32"},
        constexprs={"H": heads, "V": width, "BLOCK_P": 16, "BLOCK_V": width, "SINKS": sinks},
        num_warps=4,
    )


def _write(cache: str) -> Build:
    strides = dict.fromkeys(("k_stride", "v_stride", "k_page", "v_page"), "i32")
    caches = {"k": "*bf16", "v": "*bf16", "slots": "*i64", "k_cache": f"*{cache}", "v_cache": f"*{cache}"}
    return Build(
        name=f"kv_cache.write_kv.{cache}",
        kernel="attention.triton.write:write_kernel",
        signature={**caches, **strides, "k_scale": "fp32", "v_scale": "fp32"},
        constexprs={"K_WIDTH": 1024, "V_WIDTH": 1024, "PAGE": 16, "BLOCK": 1024, "CLAMPED": cache != "bf16"},
        num_warps=4,
        aligned=(*caches, *strides),
    )
