"""What differs between devices: memory for staging, mirrors of host arrays, and fetching results. The rest is one path.

The CPU shares memory with the host arrays, so staging, pushing and fetching are free. CUDA copies from pinned memory on
the current stream, so that the host runs ahead of the device, and an event tells when a result may be read.
"""

from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from ts_protocol.messages import UNUSABLE
from ts_protocol.wire import IntArray

from ts_runtime.errors import SettingsError
from ts_runtime.settings import free_host_memory

Array = npt.NDArray[Any]
Part = slice | tuple[int, slice]

GIB: Final = 1 << 30


class Fetch(Protocol):
    """A result on its way to the host."""

    def wait(self) -> IntArray:
        """The result, int32 [n], once the device has made it."""


class Device(Protocol):
    """Where the model runs."""

    torch_device: torch.device
    in_flight: int
    """Steps that the host may launch before it waits for the first."""

    def free_memory(self) -> int:
        """Bytes that can still be allocated."""

    def cache_budget(self, free: int) -> int:
        """Bytes of ``free`` that an automatically sized cache takes."""

    def host(self, size: int, dtype: torch.dtype) -> Tensor:
        """Host memory [size] that ``stage`` takes views of."""

    def stage(self, host: Tensor) -> Tensor:
        """``host`` on the device; leave ``host`` alone until the step's result has been fetched."""

    def restage(self, host: Tensor, staged: Tensor) -> None:
        """Bring the beginning of ``host`` into what an earlier ``stage`` gave."""

    def mirror(self, array: Array) -> Tensor:
        """A device tensor that follows ``array`` where it is pushed."""

    def push(self, tensor: Tensor, array: Array, part: Part) -> None:
        """This part of ``array`` has changed: bring it to its mirror ``tensor``."""

    def argmax(self, logits: Tensor) -> Tensor:
        """The highest of each row of fp32 [S, V], the first of equals, as int32 [S]; NaN is never it.

        ``UNUSABLE`` where the highest is infinite, or there is none.
        """

    def fetch(self, tensor: Tensor) -> Fetch:
        """Start bringing int32 [n] to the host."""


class Ready:
    """A result that is on the host already."""

    def __init__(self, array: IntArray) -> None:
        self._array = array

    def wait(self) -> IntArray:
        """The result."""
        return self._array


class CpuDevice:
    """The host itself."""

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")
        self.in_flight = 1

    def free_memory(self) -> int:
        """See ``Device``."""
        return free_host_memory()

    def cache_budget(self, free: int) -> int:
        """A tenth, at most 4 GiB: the machine is not ours alone."""
        return min(free // 10, 4 * GIB)

    def host(self, size: int, dtype: torch.dtype) -> Tensor:
        """See ``Device``."""
        return torch.empty(size, dtype=dtype)

    def stage(self, host: Tensor) -> Tensor:
        """The same memory."""
        return host

    def restage(self, host: Tensor, staged: Tensor) -> None:
        """Nothing to do: the memory is the same."""

    def mirror(self, array: Array) -> Tensor:
        """The same memory."""
        return torch.from_numpy(array)

    def push(self, tensor: Tensor, array: Array, part: Part) -> None:
        """Nothing to do: the memory is the same."""

    def argmax(self, logits: Tensor) -> Tensor:
        """numpy's: 13 us for 16 rows of 6144, where torch's takes 465."""
        array = logits.numpy()
        rows, chosen = np.arange(len(array)), array.argmax(axis=-1)
        if not np.isfinite(array[rows, chosen]).all():  # numpy takes the first NaN for the largest
            numbers = np.where(np.isnan(array), -np.inf, array)
            chosen = numbers.argmax(axis=-1)
            chosen[~np.isfinite(numbers[rows, chosen])] = UNUSABLE
        return torch.from_numpy(chosen.astype(np.int32))

    def fetch(self, tensor: Tensor) -> Fetch:
        """The same memory."""
        return Ready(tensor.numpy())


class CudaFetch:
    """A copy to pinned memory, and the event behind it."""

    def __init__(self, tensor: Tensor) -> None:
        self._pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._pinned.copy_(tensor, non_blocking=True)
        self._event: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record()

    def wait(self) -> IntArray:
        """Blocks until the copy is there."""
        self._event.synchronize()
        array: IntArray = self._pinned.numpy()
        return array


class CudaDevice:
    """One CUDA device."""

    def __init__(self, device: torch.device) -> None:
        if not torch.cuda.is_available():
            raise SettingsError(f"device = {device}: this machine or this torch has no CUDA; give cpu")
        if device.index >= torch.cuda.device_count():
            raise SettingsError(f"device = {device}: there are {torch.cuda.device_count()}; give cuda:0 and so on")
        torch.cuda.set_device(device)
        self.torch_device = device
        self.in_flight = 2

    def free_memory(self) -> int:
        """See ``Device``."""
        return torch.cuda.mem_get_info(self.torch_device)[0]

    def cache_budget(self, free: int) -> int:
        """All but a tenth, which is left to activations."""
        return free * 9 // 10

    def host(self, size: int, dtype: torch.dtype) -> Tensor:
        """Pinned."""
        return torch.empty(size, dtype=dtype, pin_memory=True)

    def stage(self, host: Tensor) -> Tensor:
        """A copy, in stream order."""
        return host.to(self.torch_device, non_blocking=True)

    def restage(self, host: Tensor, staged: Tensor) -> None:
        """A copy, in stream order."""
        staged.copy_(host[: len(staged)], non_blocking=True)

    def mirror(self, array: Array) -> Tensor:
        """A copy."""
        return torch.from_numpy(array).to(self.torch_device)

    def push(self, tensor: Tensor, array: Array, part: Part) -> None:
        """A copy, in stream order."""
        tensor[part] = torch.from_numpy(array[part]).to(self.torch_device)

    def argmax(self, logits: Tensor) -> Tensor:
        """torch's, which would take NaN for the largest."""
        highest, chosen = torch.where(logits.isnan(), -torch.inf, logits).max(dim=-1)
        return torch.where(highest.isfinite(), chosen, UNUSABLE).to(torch.int32)

    def fetch(self, tensor: Tensor) -> Fetch:
        """See ``Device``."""
        return CudaFetch(tensor)


def open_device(name: str) -> Device:
    """The device of a configuration, ``cpu`` or ``cuda:N``.

    Raises:
        SettingsError: this machine does not have it.
    """
    device = torch.device(name)
    return CpuDevice() if device.type == "cpu" else CudaDevice(device)
