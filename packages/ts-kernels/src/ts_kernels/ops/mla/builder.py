"""``kv_b`` prepared some heads at a time, so that its source is never whole in memory.

Legend: H heads, N no-position width, V value width, L latent width.
"""

from threading import Lock
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from ... import contract, settings
from .._arrivals import CAME, MISSING, Arrivals, unfinished
from ..gemm.weights import checked
from .weights import KvBWeight

if TYPE_CHECKING:
    from ..._native import KvB

_NAME: Final = "mla.KvBBuilder"


class KvBBuilder:
    """Makes the ``KvBWeight`` of ``heads`` heads, which ``put`` brings in any order, also from several threads at once.

    Where the kernel packs, heads are packed by the thread that brings them, and may go after the call. Elsewhere they
    are copied into a source of the whole.
    """

    def __init__(self, heads: int, nope: int, v: int, *, keep_source: bool = False) -> None:
        for name, size in (("heads", heads), ("nope", nope), ("v", v)):
            contract.count(_NAME, name, size)
            contract.bounded(_NAME, name, size)
        self.heads, self.nope, self.v = heads, nope, v
        self._keep = keep_source or settings.current().keep_source
        self._lock = Lock()
        self._form: tuple[torch.dtype, torch.device, int] | None = None
        self._arrivals = Arrivals(_NAME, "kv_b", heads * (nope + v), nope + v)
        self._finished = False
        self._packed: KvB | None = None
        self._whole: Tensor | None = None

    def put(self, first: int, kv_b: Tensor) -> None:
        """Heads from ``first`` on, [.. * (N + V), L], fp32 or bf16, of one type in all calls.

        Raises ``ContractError``, also for heads that came before.
        """
        contract.whole(_NAME, "first", first)
        kv_b = checked(_NAME, "kv_b", kv_b)
        count, each = kv_b.shape[0], self.nope + self.v
        heads = count // each
        if count % each or not 0 <= first < first + heads <= self.heads:
            contract.fail(_NAME, "kv_b", f"{each} rows each of heads below {self.heads}", f"{count} from head {first}")
        form = kv_b.dtype, kv_b.device, kv_b.shape[1]
        with self._lock:
            unfinished(_NAME, "put", "before finish", self._finished)
            if self._form is None:
                self._begin(kv_b)
                self._form = form
            if form != self._form:
                contract.fail(_NAME, "kv_b", f"of one form, {self._form}", f"{form}")
            coming = self._arrivals.expect(first * each, count)
        try:
            if self._packed is None:
                assert self._whole is not None
                self._whole[first * each :][:count].copy_(kv_b)
            else:
                from . import cpu

                cpu.put_heads(self._packed, kv_b, first, heads)
        except BaseException:
            coming.mark(MISSING)
            raise
        coming.mark(CAME)

    def finish(self) -> KvBWeight:
        """The weight, all of whose heads have come; only once. Raises ``ContractError``."""
        with self._lock:
            unfinished(_NAME, "finish", "once", self._finished)
            self._arrivals.complete()
            weight = self._weight()
            self._finished, self._packed, self._whole = True, None, None
        return weight

    def _weight(self) -> KvBWeight:
        assert self._form is not None
        if self._packed is None:
            from . import prepare_kv_b

            assert self._whole is not None
            return prepare_kv_b(self._whole, self.heads, self.nope, self.v, keep_source=self._keep)
        dtype, device, latent = self._form
        return KvBWeight(self.heads, self.nope, self.v, latent, dtype, device, None, self._packed)

    def _begin(self, kv_b: Tensor) -> None:
        """Decide by the first heads how the rest is taken."""
        from . import kernel_of

        if kernel_of(kv_b, self.heads, self.nope, self.v).in_runs and not self._keep:
            from . import cpu

            self._packed = cpu.room_for_heads(kv_b, self.heads, self.nope, self.v)
        else:
            self._whole = kv_b.new_empty((self.heads * (self.nope + self.v), kv_b.shape[1]))
