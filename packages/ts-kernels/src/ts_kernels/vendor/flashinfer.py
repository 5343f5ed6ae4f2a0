"""Kernels of FlashInfer (package flashinfer-python) for NVIDIA GPUs from sm_80 on.

They have not been run on hardware here, so they serve only where an override names them (``impl="flashinfer"``).
Arguments follow docs.flashinfer.ai (flashinfer.norm, flashinfer.activation, flashinfer.mla).
Its log-sum-exp is to base 2. Legend: H heads, R rotary width, L latent width.
"""

import functools
import importlib
import math
from typing import Any

import torch
from torch import Tensor

from ..plugins import Plugin, Registrar, installed
from ..registry import Band, Capability, Kernel, KernelSpec, Trait

NAME = "flashinfer"
WORKSPACE_BYTES = 128 * 2**20  # what its documentation recommends for split-KV results
BF16 = frozenset({torch.bfloat16})  # theirs want one dtype for activations and weights
_GPU = Capability(device="cuda", vendor="nvidia", min_arch=80)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``norm.rms_norm``."""
    result: Tensor = _module("norm").rmsnorm(x, weight, eps)
    return result


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``norm.add_rms_norm``; theirs overwrites its input, ours must not, so it gets a copy."""
    normed = x.clone(memory_format=torch.contiguous_format)
    _module("norm").fused_add_rmsnorm(normed, residual, weight, eps)
    return normed, residual


def silu_mul(gate_up: Tensor) -> Tensor:
    """``activation.silu_mul``."""
    result: Tensor = _module("activation").silu_and_mul(gate_up.contiguous())
    return result


def mla_decode_absorbed(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    *,
    q_len: int,
    cache_scale: Tensor | None,
    lse: Tensor | None,
) -> Tensor:
    """``mla.decode_absorbed`` through BatchMLAPagedAttentionWrapper, which plans on the host at every call."""
    del cache_scale  # of FP8 caches, which this does not take
    latent, rows, page_size = q_latent.shape[2], seq_lens.shape[0], cache.shape[1]
    if not rows:
        return torch.empty_like(q_latent)
    pages = (seq_lens + page_size - 1) // page_size
    used = torch.arange(block_tables.shape[1], device=cache.device) < pages[:, None]
    starts = torch.zeros(rows + 1, dtype=torch.int32, device=cache.device)
    starts[1:] = pages.cumsum(0)
    wrapper = _wrapper(cache.device)
    wrapper.plan(
        torch.arange(0, (rows + 1) * q_len, q_len, dtype=torch.int32, device=cache.device),
        starts,
        block_tables[used],
        seq_lens,
        q_latent.shape[1],
        latent,
        cache.shape[2] - latent,
        page_size,
        q_len > 1,  # causal: one query a row sees every key
        scale,
        q_latent.dtype,
        cache.dtype,
    )
    halves = cache[..., :latent], cache[..., latent:]
    out, log2 = wrapper.run(q_latent.contiguous(), q_rope.contiguous(), *halves, return_lse=True)
    padding = (seq_lens == 0).repeat_interleave(q_len)
    if lse is not None:
        lse.copy_((log2 * math.log(2)).masked_fill(padding[:, None], -math.inf))
    result: Tensor = out.masked_fill(padding[:, None, None], 0)
    return result


@functools.cache
def _wrapper(device: torch.device) -> Any:
    workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.int8, device=device)
    return _module("mla").BatchMLAPagedAttentionWrapper(workspace)


def _module(name: str) -> Any:
    """A module of FlashInfer, imported when its first kernel runs: the import compiles and takes seconds."""
    return importlib.import_module(f"flashinfer.{name}")


def _spec(operation: str, function: Kernel, dtypes: tuple[str, ...], **more: Any) -> KernelSpec:
    return KernelSpec(
        operation=operation,
        name=NAME,
        band=Band.UNPROVEN,
        load=lambda: function,
        capability=_GPU,
        dtypes=dict.fromkeys(dtypes, BF16),
        **more,
    )


def register(registrar: Registrar) -> None:
    """Offer the kernels, if FlashInfer is installed."""
    if not installed("flashinfer"):
        return
    registrar.register(_spec("norm.rms_norm", rms_norm, ("x", "weight")))
    registrar.register(_spec("norm.add_rms_norm", add_rms_norm, ("x", "residual", "weight")))
    registrar.register(_spec("activation.silu_mul", silu_mul, registrar.operation("activation.silu_mul").dtypes))
    registrar.register(
        _spec(
            "mla.decode_absorbed",
            mla_decode_absorbed,
            ("q_latent", "cache"),
            traits=(Trait("L=512 and R=64", lambda dims: dims["L"] == 512 and dims["R"] == 64),),
        )
    )


plugin = Plugin(api_version=1, register=register)
