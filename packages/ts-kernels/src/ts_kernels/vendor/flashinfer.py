"""Kernels of FlashInfer (package flashinfer-python) for NVIDIA GPUs from sm_80 on.

They have not been run on hardware here, so they serve only where an override names them (``impl="flashinfer"``).
Arguments follow docs.flashinfer.ai (flashinfer.norm, flashinfer.activation, flashinfer.mla).
Legend: B rows, H heads, N no-position width, R rotary width, V value width, L latent width.
"""

import functools
import importlib
import weakref
from typing import Any

import torch
from torch import Tensor

from ..ops.mla.weights import KvBWeight
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


def mla_decode(
    q: Tensor, cache: Tensor, weight: KvBWeight, block_tables: Tensor, seq_lens: Tensor, scale: float
) -> Tensor:
    """``mla.decode`` through BatchMLAPagedAttentionWrapper on absorbed queries. It plans on the host at every call."""
    w_uk_HNL, w_uv_HVL = _absorbed(weight, q.dtype)
    latent, batch, page_size = weight.latent, q.shape[0], cache.shape[1]
    if not batch:
        return q.new_empty(0, weight.heads * weight.v)
    q_latent = torch.einsum("bhn,hnl->bhl", q[..., : weight.nope], w_uk_HNL)
    pages = (seq_lens + page_size - 1) // page_size
    used = torch.arange(block_tables.shape[1], device=q.device) < pages[:, None]
    starts = torch.zeros(batch + 1, dtype=torch.int32, device=q.device)
    starts[1:] = pages.cumsum(0)
    wrapper = _wrapper(q.device)
    wrapper.plan(
        torch.arange(batch + 1, dtype=torch.int32, device=q.device),
        starts,
        block_tables[used],
        seq_lens,
        weight.heads,
        latent,
        cache.shape[2] - latent,
        page_size,
        False,  # one query a row sees every key
        scale,
        q.dtype,
        cache.dtype,
    )
    mixed = wrapper.run(q_latent, q[..., weight.nope :].contiguous(), cache[..., :latent], cache[..., latent:])
    mixed = torch.where((seq_lens > 0)[:, None, None], mixed, 0)
    return torch.einsum("bhl,hvl->bhv", mixed, w_uv_HVL).flatten(1)


_halves: "weakref.WeakKeyDictionary[KvBWeight, tuple[Tensor, Tensor]]" = weakref.WeakKeyDictionary()


def _absorbed(weight: KvBWeight, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(w_uk, w_uv) in the queries' dtype, made once a weight."""
    held = _halves.get(weight)
    if held is None or held[0].dtype != dtype:
        w_uk_HNL, w_uv_HVL = weight.split()
        held = _halves[weight] = w_uk_HNL.to(dtype), w_uv_HVL.to(dtype)
    return held


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
            "mla.decode",
            mla_decode,
            ("q", "cache"),
            formats=frozenset({"dense", "dense+packed"}),
            traits=(Trait("L=512 and R=64", lambda dims: dims["L"] == 512 and dims["R"] == 64),),
        )
    )


plugin = Plugin(api_version=1, register=register)
