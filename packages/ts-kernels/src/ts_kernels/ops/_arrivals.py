"""Which rows of a weight its builder has been given: each once, none missing at the end, none after it."""

from .. import contract

MISSING, COMING, CAME = b"\0", b"\1", b"\2"


class Coming:
    """Rows that are brought but not taken yet."""

    __slots__ = ("_end", "_first", "_states")

    def __init__(self, states: bytearray, first: int, end: int) -> None:
        self._states, self._first, self._end = states, first, end

    def mark(self, state: bytes) -> None:
        """They came, or are missing as before. Needs no lock: nobody else is bringing them."""
        self._states[self._first : self._end] = state * (self._end - self._first)


class Arrivals:
    """The rows of one matrix, ``unit`` of them by ``unit``; ``of`` says in messages what it is one of."""

    def __init__(self, operation: str, argument: str, rows: int, unit: int, of: str = "") -> None:
        self._operation, self._argument, self._rows, self._unit, self._of = operation, argument, rows, unit, of
        self._states = bytearray(-(-rows // unit))

    def expect(self, first: int, count: int) -> Coming:
        """Rows whose bringing starts; one thread at a time. Raises ``ContractError`` for any brought before."""
        start, end = first // self._unit, -(-(first + count) // self._unit)
        if self._states.count(MISSING, start, end) < end - start:
            wanted = f"rows{self._of} that have not come yet"
            contract.fail(self._operation, self._argument, wanted, f"{first} to {first + count}")
        coming = Coming(self._states, start, end)
        coming.mark(COMING)
        return coming

    def complete(self) -> None:
        """All rows came; raises ``ContractError`` that names the first that did not."""
        if self._states.count(CAME) == len(self._states):
            return
        first, end = self._run(MISSING)
        if end:
            wanted = f"{self._rows} rows{self._of} before the end"
            contract.fail(self._operation, self._argument, wanted, f"none of {first} to {end}")
        first, end = self._run(COMING)
        if end:  # else they came meanwhile
            argument, given = f"{self._argument}{self._of}", f"{first} to {end} that are not"
            contract.fail(self._operation, argument, "packed (Runs.pack) before the end", given)

    def _run(self, state: bytes) -> tuple[int, int]:
        """The first rows on end in this state; the second number is 0 where there are none."""
        first = self._states.find(state)
        if first < 0:
            return 0, 0
        rest = self._states[first:]
        end = first + len(rest) - len(rest.lstrip(state))
        return first * self._unit, min(end * self._unit, self._rows)


def unfinished(operation: str, call: str, when: str, finished: bool) -> None:
    """Refuse a call of a builder after its ``finish``, which would change the weight that was given."""
    if finished:
        contract.fail(operation, call, f"called {when}", "another call after finish")
