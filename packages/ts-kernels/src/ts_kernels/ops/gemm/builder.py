"""A linear layer's weight made of runs of its rows, so that its source is never whole in memory.

Legend: N outputs, K inputs.
"""

from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import contract, settings
from .._arrivals import CAME, MISSING, Arrivals, Coming, unfinished
from ..quantize.formats import QuantizedWeight
from ..quantize.runs import put_run, room_for, shared_rows
from .weights import DENSE, LinearWeight, Source, checked_bias, checked_source

if TYPE_CHECKING:
    from ..._native import PackedLinear, Run

_NAME = "gemm.LinearBuilder"
RUN = 16
"""Rows that a run begins at a multiple of, and ends at one unless it is the last: the native form has panels of 16."""


def check_run(operation: str, argument: str, first: int, count: int, total: int, step: int = RUN) -> None:
    """A run of ``count`` rows of ``total`` begins and ends where it may; raises ``ContractError``."""
    contract.whole(operation, "first", first)
    end = first + count
    if first % step or (end % step and end != total) or not 0 <= first < end <= total:
        contract.fail(operation, argument, f"from a multiple of {step} to one, or to {total}", f"{first} to {end}")


def check_runs(operation: str, runs: object) -> None:
    """``runs`` are some, or None; raises ``ContractError``."""
    if runs is not None and not isinstance(runs, Runs):
        contract.fail(operation, "runs", "gemm.Runs or None", repr(runs))


class Runs:
    """Runs of rows that builders have taken and not packed yet: ``pack`` does it, on the calling thread.

    The Python of many small runs comes first and the packing in one go after it, so that threads seldom wait for the
    interpreter. What the rows lie in must last until then, and weights can be finished after it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: list[tuple[Run, tuple[Tensor, ...], Coming]] = []

    def add(
        self,
        rows: Source,
        first: int,
        total: int,
        into: "PackedLinear | None",
        coming: Coming,
        *,
        in_turn: bool = False,
    ) -> "PackedLinear":
        """Rows of a weight of ``total``, from ``first`` on; returns what they will be packed ``into``.

        ``coming`` is marked when they are.
        """
        from . import cpu

        run, lent = cpu.run_of(rows, first, total, into, in_turn=in_turn)
        with self._lock:
            self._waiting.append((run, lent, coming))
        return run.into

    def pack(self) -> None:
        """Pack what has been added; where that fails, none of it came."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        if waiting:
            from ..._native import pack_runs

            state = MISSING
            try:
                pack_runs([run for run, _, _ in waiting])
                state = CAME
            finally:
                for _, _, coming in waiting:
                    coming.mark(state)


class LinearBuilder:
    """Makes a ``LinearWeight`` of ``n`` rows, of which ``put`` brings runs in any order, also from several threads at
    once.

    Where the kernel packs, each run is packed by the thread that brings it, in the call or with its ``Runs``, and may
    go after that. Elsewhere runs are copied into a source of the whole.
    """

    def __init__(self, n: int, *, keep_source: bool = False) -> None:
        contract.count(_NAME, "n", n)
        contract.bounded(_NAME, "n", n)
        self.n = n
        self._keep = keep_source or settings.current().keep_source
        self._lock = Lock()
        self._first: tuple[str, torch.dtype, torch.device, int] | None = None
        self._arrivals = Arrivals(_NAME, "rows", n, RUN)
        self._finished = False
        self._packs = False
        self._packed: PackedLinear | None = None
        self._whole: Source | None = None

    def put(self, first: int, rows: Source, *, runs: Runs | None = None) -> None:
        """Rows from ``first`` (a multiple of 16) on, [.., K], of one form and type in all calls.

        A run ends at a multiple of 16, or at the last row; where FP8 blocks are kept, it is 128 instead of 16. With
        ``runs``, packing is left to them. Raises ``ContractError``, also for rows that came before.
        """
        check_runs(_NAME, runs)
        rows = checked_source(_NAME, "rows", rows)
        count, k = rows.shape
        check_run(_NAME, "rows", first, count, self.n)
        kind, dtype = (rows.kind, torch.float32) if isinstance(rows, QuantizedWeight) else (DENSE, rows.dtype)
        form = kind, dtype, rows.device, k
        own = Runs() if runs is None else runs
        with self._lock:
            unfinished(_NAME, "put", "before finish", self._finished)
            if self._first is None:
                self._begin(form, rows)
            if form != self._first:
                contract.fail(_NAME, "rows", f"of one form, {self._first}", f"{form}")
            coming = self._arrivals.expect(first, count)
        try:
            if self._packs:
                with self._lock:
                    self._packed = own.add(rows, first, self.n, self._packed, coming)
            else:
                assert self._whole is not None
                check_run(_NAME, "rows", first, count, self.n, shared_rows(rows))
                put_run(self._whole, rows, first)
                coming.mark(CAME)
        except BaseException:
            coming.mark(MISSING)
            raise
        if runs is None:
            own.pack()

    def finish(self, *, bias: Tensor | None = None) -> LinearWeight:
        """The weight, all of whose rows have come and are packed; ``bias`` as in ``gemm.prepare``.

        Only once. Raises ``ContractError``, also for FP8 codes of NaN and scales that are not finite.
        """
        with self._lock:
            unfinished(_NAME, "finish", "once", self._finished)
            self._arrivals.complete()
            weight = self._weight(bias)
            self._finished, self._packed, self._whole = True, None, None
        return weight

    def _weight(self, bias: Tensor | None) -> LinearWeight:
        assert self._first is not None
        if not self._packs:
            from . import prepare

            assert self._whole is not None
            return prepare(self._whole, bias=bias, keep_source=self._keep)
        kind, dtype, device, k = self._first
        assert self._packed is not None
        from . import cpu

        cpu.check_codes(_NAME, "rows", self._packed)
        bias = checked_bias(_NAME, bias, self.n, device)
        if bias is not None:
            self._packed.set_bias(bias.data_ptr())
        return LinearWeight(self.n, k, kind, dtype, device, None, self._packed, bias)

    def _begin(self, form: tuple[str, torch.dtype, torch.device, int], rows: Source) -> None:
        """Decide by the first run how the rest is taken."""
        from . import packs_in_runs

        kind, dtype, device, k = form
        self._packs = not self._keep and packs_in_runs(device, dtype, (self.n, k), kind)
        if not self._packs:
            self._whole = room_for(rows, self.n)
        self._first = form
