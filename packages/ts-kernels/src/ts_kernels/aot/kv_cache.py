"""Builds of ts_kernels.ops.kv_cache.triton: Kimi K2.5's latents, in bf16 and FP8."""

from . import Build


def aot_builds() -> list[Build]:
    """The fused norm, rotation and write (FP8 as bytes), and copies of pages of 64."""
    return [_write("bf16"), _write("u8"), _copy()]


def _write(stored: str) -> Build:
    pointers = {
        "kv_a": "*bf16", "norm_weight": "*fp32", "cos_sin": "*fp32", "positions": "*i64", "slots": "*i64",
        "cache": f"*{stored}",
    }  # fmt: skip
    if stored == "u8":
        pointers["cache_scale"] = "*fp32"
    absent = {} if stored == "u8" else {"cache_scale": None}
    sizes = {"L": 512, "PAIRS": 32, "BLOCK_L": 512, "BLOCK_P": 32, "FP8": stored == "u8"}
    return Build(
        name=f"kv_cache.write_latent.{stored}",
        kernel="kv_cache.triton:write_latent_kernel",
        signature={**pointers, "kv_stride": "i32", "eps": "fp32"},
        constexprs={**absent, **sizes},
        num_warps=2,
        num_stages=1,
        aligned=(*pointers, "kv_stride"),
    )


def _copy() -> Build:
    pointers = dict.fromkeys(("source", "target", "source_pages", "target_pages"), "*i64")
    return Build(
        name="kv_cache.copy_pages",
        kernel="kv_cache.triton:copy_pages_kernel",
        signature={**pointers, "words": "i32"},
        constexprs={"BLOCK": 2048},
        num_warps=4,
        num_stages=1,
        aligned=(*pointers, "words"),
    )
