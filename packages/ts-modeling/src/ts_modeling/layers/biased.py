"""Matrix products with a bias, and the plain MLP of two of them.

The addends of a cut product are summed over its ranks, so its bias is added by the first of them alone.

Legend: T tokens, K inputs, N outputs, D hidden, I intermediate of this rank.
"""

from torch import Tensor
from ts_kernels import activation, gemm

from ..placement import TOKENS, Boundary, Dim, Mesh, Partial, Replicate, Spec
from .leaf import Buffer, Leaf, Slot, cut
from .linear import product_boundary
from .stack import inner_span, local_size


class BiasedLinear(Leaf):
    """``x_TK @ weight_NK.T + bias_N``; checkpoint parts are ``weight`` and ``bias``.

    ``columns`` cuts N over that axis and gives a Shard; ``rows`` cuts K and gives a Partial sum. ``stacked`` equal
    matrices lie in one tensor (queries, keys, values): each is cut on its own.
    """

    memory = "own"

    def __init__(
        self,
        takes: Dim,
        gives: Dim,
        mesh: Mesh,
        *,
        columns: str | None = None,
        rows: str | None = None,
        stacked: int = 1,
    ) -> None:
        super().__init__()
        assert takes.size is not None
        assert gives.size is not None
        assert columns is None or rows is None
        self.n, self.k, self.stacked = gives.size, takes.size, stacked
        self.n_local = local_size(gives.name, self.n // stacked, mesh, columns)
        self.k_local = local_size(takes.name, self.k, mesh, rows)
        self.n_index = mesh.index(mesh.atoms(columns)) if columns else 0
        self.k_index = mesh.index(mesh.atoms(rows)) if rows else 0
        self.boundary = product_boundary(takes, gives, columns, rows)

    def forward(self, x_TK: Tensor) -> Tensor:
        """[T, K] -> [T, N], both this rank's part."""
        return gemm.linear(x_TK, self.weight)

    def buffers_wanted(self) -> dict[str, Buffer]:
        """Weight and bias; the bias of a product cut by rows is dropped later where it is not added."""
        n = self.stacked * self.n_local
        return {"weight": Buffer((n, self.k_local)), "bias": Buffer((n,), init="zeros")}

    def slot(self, part: str) -> Slot:
        """This rank's rows of each stacked matrix (or its columns), or of the bias."""
        columns = () if part == "bias" else (cut(self.k_index * self.k_local, self.k_local),)
        shape = (self.n,) if part == "bias" else (self.n, self.k)
        step, local = self.n // self.stacked, self.n_local
        pairs = [
            ((cut(i * step + self.n_index * local, local), *columns), (cut(i * local, local),))
            for i in range(self.stacked)
        ]
        return Slot(part, shape, *pairs[0], more=tuple(pairs[1:]))

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Bring the weight to the form that the kernels want, the bias within it."""
        bias = tensors.pop("bias")
        self.weight = gemm.prepare(tensors.pop("weight"), bias=None if self.k_index else bias)


class GeluMLP(Leaf):
    """``down(gelu(up(x)))`` with biases, the intermediate dimension cut over ``axis``; gives a Partial sum.

    ``tanh`` takes GELU's approximation. Checkpoint parts are ``up`` and ``down`` with ``.weight`` or ``.bias``.
    """

    memory = "own"

    def __init__(self, takes: Dim, intermediate: int, gives: Dim, mesh: Mesh, *, axis: str, tanh: bool) -> None:
        super().__init__()
        assert takes.size is not None
        assert gives.size is not None
        self.d_in, self.d_out, self.intermediate, self.tanh = takes.size, gives.size, intermediate, tanh
        self.inner = inner_span("the vision tower's intermediate size", intermediate, mesh, axis)
        before, after = Spec(TOKENS, takes, **{axis: Replicate()}), Spec(TOKENS, gives, **{axis: Partial()})
        self.boundary = Boundary((before,), (after,))

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D] -> [T, D], of the widths that it takes and gives."""
        return gemm.linear(activation.gelu(gemm.linear(x_TD, self.up), tanh=self.tanh), self.down)

    def buffers_wanted(self) -> dict[str, Buffer]:
        """Both matrices and their biases."""
        inner = self.inner.length
        return {
            "up.weight": Buffer((inner, self.d_in)),
            "up.bias": Buffer((inner,), init="zeros"),
            "down.weight": Buffer((self.d_out, inner)),
            "down.bias": Buffer((self.d_out,), init="zeros"),
        }

    def slot(self, part: str) -> Slot:
        """This rank's rows of ``up``, columns of ``down``; ``down``'s bias is read whole by all."""
        mine = cut(self.inner.start, self.inner.length)
        shapes: dict[str, tuple[tuple[int, ...], tuple[slice, ...]]] = {
            "up.weight": ((self.intermediate, self.d_in), (mine,)),
            "up.bias": ((self.intermediate,), (mine,)),
            "down.weight": ((self.d_out, self.intermediate), (slice(None), mine)),
            "down.bias": ((self.d_out,), ()),
        }
        return Slot(part, *shapes[part])

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Bring both matrices to the form that the kernels want, the biases within them."""
        self.up = gemm.prepare(tensors.pop("up.weight"), bias=tensors.pop("up.bias"))
        bias = tensors.pop("down.bias")
        self.down = gemm.prepare(tensors.pop("down.weight"), bias=None if self.inner.start else bias)
