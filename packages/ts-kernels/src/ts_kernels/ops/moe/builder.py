"""A layer's routed experts made matrix by matrix. Legend: E experts, D hidden, I intermediate of an expert."""

from threading import Lock
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from ... import contract, settings
from ..activation.gates import Gated
from ..gemm.builder import Runs, check_run
from ..gemm.weights import DENSE, checked_source
from ..quantize.formats import QuantizedWeight
from ..quantize.runs import put_run, room_for
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
        self.experts, self.hidden, self.inter = experts, hidden, inter
        self.interleaved, self.activation = interleaved, activation
        self._rows = {"gate_up": 2 * inter, "down": hidden}
        self._columns = {"gate_up": hidden, "down": inter}
        self._keep = keep_source or settings.current().keep_source
        self._lock = Lock()
        self._form: tuple[str, torch.dtype, torch.device] | None = None
        self._came = dict.fromkeys(MATRICES, 0)
        self._packs = False
        self._packed: dict[str, list[PackedLinear | None]] = {name: [None] * experts for name in MATRICES}
        self._whole: dict[str, ExpertSource] = {}

    def put(self, matrix: str, expert: int, first: int, rows: ExpertSource, *, runs: Runs | None = None) -> None:
        """Rows of one expert's ``matrix`` ("gate_up" or "down") from ``first`` on, of one form in all calls.

        With ``runs``, packing is left to them. Raises ``ContractError``.
        """
        if matrix not in MATRICES:
            contract.fail(_NAME, "matrix", " or ".join(MATRICES), matrix)
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
        with self._lock:
            if self._form is None:
                self._packs = not self._keep and self._packs_in_runs(rows.device, dtype, kind)
                self._form = form
            if form != self._form:
                contract.fail(_NAME, matrix, f"of one form, {self._form}", f"{form}")
            self._came[matrix] += count
            if not self._packs and matrix not in self._whole:
                self._whole[matrix] = room_for(rows, self._rows[matrix], self.experts)
            if self._packs:  # the first run of a matrix makes room for the others
                turn, into = self.interleaved and matrix == "gate_up", self._packed[matrix][expert]
                self._packed[matrix][expert] = own.add(rows, first, self._rows[matrix], into, in_turn=turn)
        if not self._packs:
            put_run(self._whole[matrix], rows, first, expert)
        if runs is None:
            own.pack()

    def finish(self, *, gate_up_bias: Tensor | None = None, down_bias: Tensor | None = None) -> ExpertWeights:
        """The layer, all of whose rows have come and are packed; biases as in ``prepare_experts``.

        Raises ``ContractError``, also for FP8 codes of NaN and scales that are not finite.
        """
        from . import layer

        for matrix, rows in self._rows.items():
            contract.complete(_NAME, matrix, self._came[matrix], self.experts * rows)
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
