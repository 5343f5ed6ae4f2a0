"""Everything that this package raises on purpose.

KernelError
|-- ContractError (ValueError)       an argument breaks the operation's contract
|-- SelectionError (LookupError)
|   |-- UnknownOperationError        no operation has that name
|   |-- UnknownKernelError           the operation has no kernel of that name
|   `-- NoKernelError                kernels exist, none can serve this call
|-- RegistrationError (ValueError)   a kernel declares something impossible
|-- PluginError                      a plugin could not be loaded
|-- TuningError (ValueError)         a file of measured settings is wrong, or none can be measured
|-- BuildError                       kernels cannot be compiled ahead of time here
`-- SettingsError (ValueError)       a TS_KERNELS_* variable has an unusable value, or nothing reads it
"""

import difflib
from collections.abc import Iterable

import torch
from torch import Tensor


class KernelError(Exception):
    """Root of the package's exceptions."""


class ContractError(KernelError, ValueError):
    """An argument breaks the operation's contract; says which, what was expected and what was given."""

    def __init__(self, operation: str, argument: str, expected: str, given: object) -> None:
        self.operation, self.argument, self.expected = operation, argument, expected
        super().__init__(f"{operation}: {argument} must be {expected}, got {describe(given)}")


class SelectionError(KernelError, LookupError):
    """No kernel could be chosen."""


class UnknownOperationError(SelectionError):
    """No operation has that name."""


class UnknownKernelError(SelectionError):
    """The operation has no kernel of that name."""


class NoKernelError(SelectionError):
    """Kernels exist, but none can serve this call; the message gives each one's reason."""


class RegistrationError(KernelError, ValueError):
    """A kernel declares something impossible, or a name is taken."""


class PluginError(KernelError):
    """A plugin could not be loaded."""


class TuningError(KernelError, ValueError):
    """A file of measured settings is wrong, or nothing can be measured."""


class BuildError(KernelError):
    """Kernels cannot be compiled ahead of time here."""


class SettingsError(KernelError, ValueError):
    """A TS_KERNELS_* environment variable has an unusable value, or a name that nothing reads."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Those of ``known`` that are spelt most like ``name``, for an error message."""
    return ", ".join(difflib.get_close_matches(name, sorted(known), count, cutoff=0.0))


def describe(given: object) -> str:
    """Short text for an error message: shape, dtype and device of a tensor, else its repr."""
    if isinstance(given, Tensor):
        dtype = str(given.dtype).removeprefix("torch.")
        if given.is_nested:
            return f"nested {dtype}"
        if given.layout != torch.strided:
            return f"{str(given.layout).removeprefix('torch.')} {dtype} {list(given.shape)}"
        text = f"{dtype} {list(given.shape)} on {given.device}"
        return text if given.is_contiguous() else f"{text} with strides {list(given.stride())}"
    return given if isinstance(given, str) else repr(given)
