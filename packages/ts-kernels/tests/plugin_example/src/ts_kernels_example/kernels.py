"""The kernels, imported when the first one runs."""

from torch import Tensor
from torch.nn import functional as F


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``norm.rms_norm``: the public function has checked the arguments; see its docstring for what they are."""
    return F.rms_norm(x, (x.shape[1],), weight, eps)
