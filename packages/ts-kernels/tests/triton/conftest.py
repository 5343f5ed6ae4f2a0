"""Where Triton kernels are tested: on the GPU if there is one, else in the interpreter."""

import pytest
import torch
from ts_kernels import platform


@pytest.fixture
def device() -> torch.device:
    """The device on which Triton kernels run here."""
    if platform.triton_error() is not None:
        pytest.skip(f"no Triton kernels: {platform.triton_error()}")
    return torch.device("cpu" if platform.interpreting() else "cuda")
