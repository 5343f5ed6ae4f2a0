"""One check for the arguments of an operation that has many."""

import torch
from torch import Tensor

from .. import contract

Wanted = tuple[Tensor | None, tuple[int | str, ...], tuple[torch.dtype, ...]]

FP32 = (torch.float32,)
INT16 = (torch.int16,)
INT32 = (torch.int32,)
INT64 = (torch.int64,)
BOOL = (torch.bool,)
FLOATS = (torch.float32, torch.bfloat16)


def check(operation: str, device: torch.device, *, optional: tuple[str, ...] = (), **arguments: Wanted) -> None:
    """Each tensor has its sizes (a text stands for any), one of its dtypes, and is on ``device``.

    None passes for those named ``optional``. Raises ``ContractError`` that names the first argument that does not.
    """
    for name, (tensor, sizes, dtypes) in arguments.items():
        if tensor is None:
            if name in optional:
                continue
            contract.fail(operation, name, "a tensor", None)
        if tensor.shape == sizes and tensor.dtype in dtypes and tensor.device == device:
            continue
        contract.shape(operation, name, tensor, *sizes)
        contract.dtype(operation, name, tensor, *dtypes)
        if tensor.device != device:
            contract.fail(operation, name, f"on {device} like the first argument", tensor)
