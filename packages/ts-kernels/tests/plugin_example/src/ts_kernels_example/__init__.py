"""The plugin: what it offers and where that runs. Nothing heavy is imported here; see kernels.py."""

from importlib import import_module

import torch
from ts_kernels.plugins import Plugin, Registrar
from ts_kernels.registry import Band, Capability, Kernel, KernelSpec, Trait


def _load() -> Kernel:
    kernel: Kernel = import_module("ts_kernels_example.kernels").rms_norm
    return kernel


def register(registrar: Registrar) -> None:
    """Offer one kernel: RMS norm of fp32 rows whose width is a multiple of 64."""
    registrar.register(
        KernelSpec(
            operation="norm.rms_norm",
            name="example",
            band=Band.VENDOR,
            load=_load,
            capability=Capability(device="cpu"),
            dtypes={"x": frozenset({torch.float32}), "weight": frozenset({torch.float32})},
            traits=(Trait("D a multiple of 64", lambda dims: dims["D"] % 64 == 0),),
        )
    )


plugin = Plugin(api_version=1, register=register)
