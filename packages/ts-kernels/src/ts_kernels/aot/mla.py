"""Builds of ts_kernels.ops.mla.triton: Kimi K2.5 under TP4 (16 heads a rank), plain and speculative decode, prefill."""

import torch
import triton.language as tl

from ..ops.mla.triton.settings import launch_for, prefill_launch
from ..platform import described
from . import Build
from ._targets import DEFAULT

_TARGETS = {name: described(name) for name in DEFAULT}
_CACHES = {"bf16": torch.bfloat16, "fp8e4nv": torch.float8_e4m3fn}


def aot_builds() -> list[Build]:
    """Latent 512 + rope 64, pages of 64, one query and four a row."""
    splits = [_split(t, stored, q_len) for t in _TARGETS for stored in _CACHES for q_len in (1, 2, 4)]
    attends = [_attend(t, first, last) for t in _TARGETS for first, last in ((True, True), (False, False))]
    return [*splits, _merge(), *attends, _gather()]


def _split(target: str, stored: str, q_len: int) -> Build:
    launch = launch_for(_TARGETS[target], 16 * q_len, torch.bfloat16, _CACHES[stored], 512)
    pointers = {
        "q_latent": "*bf16", "q_rope": "*bf16", "cache": f"*{stored}", "tables": "*i32", "lengths": "*i32",
        "out": "*bf16", "partial": "*fp32", "partial_lse": "*fp32",
    }  # fmt: skip
    if stored == "fp8e4nv":
        pointers["cache_scale"] = "*fp32"
    strides = dict.fromkeys(("latent_token", "latent_head", "rope_token", "rope_head", "table_stride"), "i32")
    absent = {"lse": None} if stored == "fp8e4nv" else {"lse": None, "cache_scale": None}
    return Build(
        name=f"mla.decode.{stored}.q{q_len}.{target}",
        kernel="mla.triton.decode:split_kernel",
        signature={**pointers, **strides, "B": "i32", "chunks": "i32", "scale": "fp32"},
        constexprs={
            **absent, "H": 16, "Q_LEN": q_len, "L": 512, "R": 64, "PAGE": 64, "BATCH": 16, "M": launch.rows,
            "N": launch.tile, "BLOCK_L": 512, "BLOCK_R": 64, "DOT": tl.bfloat16, "STAGES": launch.stages,
        },
        num_warps=launch.warps,
        num_stages=launch.stages,
        aligned=(*pointers, *strides),
        # 64 rows fill the registers; FP8 needs a few more to convert. Two blocks of 32 rows have none to spill, but
        # would read every latent twice.
        spills={"sm_90": 4, "sm_100": 64} if (stored, launch.rows) == ("fp8e4nv", 64) else {},
        targets=(target,),
    )  # fmt: skip


def _merge() -> Build:
    pointers = {"partial": "*fp32", "partial_lse": "*fp32", "lengths": "*i32", "out": "*bf16", "lse": "*fp32"}
    return Build(
        name="mla.decode.merge",
        kernel="mla.triton.decode:merge_kernel",
        signature={**pointers, "B": "i32", "chunks": "i32"},
        constexprs={
            "cache_scale": None, "ROWS": 64, "L": 512, "BATCH": 16, "N": 64, "SPLITS": 16, "BLOCK_L": 128,
        },
        aligned=tuple(pointers),
    )  # fmt: skip


def _attend(target: str, first: bool, last: bool) -> Build:
    launch = prefill_launch(_TARGETS[target], torch.bfloat16)
    pointers = {
        "q": "*bf16", "entries": "*bf16", "expanded": "*bf16", "out": "*bf16", "mean": "*fp32", "sums": "*fp32",
        "cu_q": "*i32", "starts": "*i32",
    }  # fmt: skip
    strides = {"q_token": "i32", "q_head": "i32"}
    return Build(
        name=f"mla.prefill.attend.{'whole' if last else 'middle'}.{target}",
        kernel="mla.triton.prefill:attend_kernel",
        signature={**pointers, **strides, "begin": "i32", "end": "i32", "rows": "i32", "scale": "fp32"},
        constexprs={
            "H": 16, "N": 128, "R": 64, "V": 128, "L": 512, "ROWS": 4, "Q": launch.rows, "K": launch.tile,
            "BLOCK_N": 128, "BLOCK_R": 64, "BLOCK_V": 128, "DOT": tl.bfloat16, "FIRST": first, "LAST": last,
            "STAGES": launch.stages,
        },
        num_warps=launch.warps,
        num_stages=launch.stages,
        aligned=(*pointers, *strides, "begin"),
        targets=(target,),
    )  # fmt: skip


def _gather() -> Build:
    pointers = {"cache": "*fp8e4nv", "cache_scale": "*fp32", "tables": "*i32", "starts": "*i32", "out": "*bf16"}
    return Build(
        name="mla.prefill.gather",
        kernel="mla.triton.prefill:gather_kernel",
        signature={**pointers, "begin": "i32", "count": "i32", "rows": "i32", "table_stride": "i32"},
        constexprs={"W": 576, "PAGE": 64, "ROWS": 4, "KEYS": 8, "BLOCK": 1024},
        aligned=(*pointers, "begin", "table_stride"),
    )
