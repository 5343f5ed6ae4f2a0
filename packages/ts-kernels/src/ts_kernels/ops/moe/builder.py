"""A layer's routed experts made matrix by matrix. Legend: E experts, D hidden, I intermediate of an expert."""

from threading import Lock
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from ... import contract, settings
from .._arrivals import CAME, MISSING, Arrivals, unfinished
from ..activation.gates import Gated
from ..gemm.builder import RUN, Runs, check_run, check_runs
from ..gemm.weights import DENSE, checked_source
from ..quantize.formats import QuantizedWeight
from ..quantize.runs import put_run, room_for, shared_rows
from .weights import ExpertSource, ExpertWeights, checked_bias

if TYPE_CHECKING:
    from ..._native import PackedLinear

_NAME: Final = "moe.ExpertsBuilder"
MATRICES: Final = ("gate_up", "down")


class ExpertsBuilder:
    """Makes the ``ExpertWeights`` of ``experts`` experts, gate_up [2I, D] and down [D, I] each, of runs of their rows.

    ``put`` brings runs in any order, also from several threads at once; see ``gemm.LinearBuilder``. ``interleaved`` and
    ``activation`` are those of ``prepare_experts``; interleaved rows of a gate_up come all at once.
    """

    def __init__(
        self,
        experts: int,
        hidden: int,
        inter: int,
        *,
        interleaved: bool = False,
        activation: Gated | None = None,
        keep_source: bool = False,
    ) -> None:
        for name, size in (("experts", experts), ("hidden", hidden), ("inter", inter)):
            contract.count(_NAME, name, size)
            contract.bounded(_NAME, name, size)
        self.experts, self.hidden, self.inter = experts, hidden, inter
        self.interleaved, self.activation = interleaved, activation
        self._rows = {"gate_up": 2 * inter, "down": hidden}
        self._columns = {"gate_up": hidden, "down": inter}
        self._keep = keep_source or settings.current().keep_source
        self._lock = Lock()
        self._form: tuple[str, torch.dtype, torch.device] | None = None
        self._arrivals = {
            name: [Arrivals(_NAME, name, rows, RUN, f" of expert {expert}") for expert in range(experts)]
            for name, rows in self._rows.items()
        }
        self._finished = False
        self._packs = False
        self._packed: dict[str, list[PackedLinear | None]] = {name: [None] * experts for name in MATRICES}
        self._whole: dict[str, ExpertSource] = {}

    def put(self, matrix: str, expert: int, first: int, rows: ExpertSource, *, runs: Runs | None = None) -> None:
        """Rows of one expert's ``matrix`` ("gate_up" or "down") from ``first`` on, of one form in all calls.

        With ``runs``, packing is left to them. Raises ``ContractError``, also for rows that came before.
        """
        check_runs(_NAME, runs)
        if matrix not in MATRICES:
            contract.fail(_NAME, "matrix", " or ".join(MATRICES), matrix)
        contract.whole(_NAME, "expert", expert)
        if not 0 <= expert < self.experts:
            contract.fail(_NAME, "expert", f"from 0 to {self.experts - 1}", expert)
        rows = checked_source(_NAME, matrix, rows)
        count, columns = rows.shape
        check_run(_NAME, matrix, first, count, self._rows[matrix])
        if columns != self._columns[matrix]:
            contract.fail(_NAME, matrix, f"[.., {self._columns[matrix]}]", f"[{count}, {columns}]")
        kind, dtype = (rows.kind, torch.bfloat16) if isinstance(rows, QuantizedWeight) else (DENSE, rows.dtype)
        form = kind, dtype, rows.device
        own = Runs() if runs is None else runs
        turn = self.interleaved and matrix == "gate_up"
        if turn and count != self._rows[matrix]:
            contract.fail(_NAME, matrix, f"all of {self._rows[matrix]} rows, as they lie in turn", f"{count}")
        with self._lock:
            unfinished(_NAME, "put", "before finish", self._finished)
            if self._form is None:
                self._packs = not self._keep and self._packs_in_runs(rows.device, dtype, kind)
                self._form = form
            if form != self._form:
                contract.fail(_NAME, matrix, f"of one form, {self._form}", f"{form}")
            if not self._packs and matrix not in self._whole:
                self._whole[matrix] = room_for(rows, self._rows[matrix], self.experts)
            coming = self._arrivals[matrix][expert].expect(first, count)
        try:
            if self._packs:
                with self._lock:  # the first run of a matrix makes room for the others
                    into = self._packed[matrix][expert]
                    packed = own.add(rows, first, self._rows[matrix], into, coming, in_turn=turn)
                    self._packed[matrix][expert] = packed
            else:
                check_run(_NAME, matrix, first, count, self._rows[matrix], shared_rows(rows))
                put_run(self._whole[matrix], rows, first, expert)
                coming.mark(CAME)
        except BaseException:
            coming.mark(MISSING)
            raise
        if runs is None:
            own.pack()

    def finish(self, *, gate_up_bias: Tensor | None = None, down_bias: Tensor | None = None) -> ExpertWeights:
        """The layer, all of whose rows have come and are packed; biases as in ``prepare_experts``.

        Only once. Raises ``ContractError``, also for FP8 codes of NaN and scales that are not finite.
        """
        with self._lock:
            unfinished(_NAME, "finish", "once", self._finished)
            for experts in self._arrivals.values():
                for arrivals in experts:
                    arrivals.complete()
            weights = self._weights(gate_up_bias, down_bias)
            self._finished = True
            self._packed.clear()
            self._whole.clear()
        return weights

    def _weights(self, gate_up_bias: Tensor | None, down_bias: Tensor | None) -> ExpertWeights:
        from . import layer

        if not self._packs:
            return layer.prepare_experts(
                self._whole["gate_up"],
                self._whole["down"],
                gate_up_bias=gate_up_bias,
                down_bias=down_bias,
                activation=self.activation,
                interleaved=self.interleaved,
                keep_source=self._keep,
            )
        assert self._form is not None
        from ..gemm import cpu

        for matrix, experts in self._packed.items():
            for packed in experts:
                assert packed is not None
                cpu.check_codes(_NAME, matrix, packed)
        kind, dtype, device = self._form
        like = torch.empty((self.experts, 0), device=device)
        weights = ExpertWeights(
            experts=self.experts,
            hidden=self.hidden,
            inter=self.inter,
            kind=kind,
            dtype=dtype,
            device=device,
            gate_up=None,
            down=None,
            interleaved=self.interleaved,
            gate_up_bias=checked_bias("gate_up_bias", gate_up_bias, like, 2 * self.inter, self.interleaved),
            down_bias=checked_bias("down_bias", down_bias, like, self.hidden, False),
            activation=self.activation or Gated(),
            packed=None,
        )
        return layer.with_matrices(weights, self._packed)

    def _packs_in_runs(self, device: torch.device, dtype: torch.dtype, kind: str) -> bool:
        from . import layer

        return layer.packs_in_runs(device, dtype, (self.experts, self.hidden, self.inter), kind)
