"""The outcome of one selection, in words: the winner, and why each other candidate is not it."""

from dataclasses import asdict, dataclass

from .registry import KernelSpec, Query, Verdict, band_name


@dataclass(frozen=True)
class Candidate:
    """One kernel's part in an explanation: its needs, each met or not."""

    spec: KernelSpec
    verdicts: tuple[Verdict, ...]

    @property
    def objections(self) -> tuple[str, ...]:
        """Every reason why it cannot serve; empty where it can."""
        return tuple(verdict.objection for verdict in self.verdicts if verdict.objection)

    def as_json(self) -> dict[str, object]:
        """The kernel's name, and its needs with what stands against each, or None."""
        said = {"name": self.spec.name, "band": band_name(self.spec.band), "origin": self.spec.origin}
        return {**said, "verdicts": [asdict(verdict) for verdict in self.verdicts]}


@dataclass(frozen=True)
class Explanation:
    """One selection: the winner (None where nothing serves) and every candidate, best first.

    As text it has a line a candidate; ``report`` adds every need of each, met or not.
    """

    query: Query
    winner: KernelSpec | None
    override: str | None
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        return "\n".join((self._head(), *(self._line(candidate) for candidate in self.candidates), *self._end()))

    def report(self) -> str:
        """The same, and below each candidate its needs."""
        lines = [self._head()]
        for candidate in self.candidates:
            lines.append(self._line(candidate))
            lines += [f"      {'no ' if v.objection else 'yes'}  {v.need}" for v in candidate.verdicts]
        return "\n".join((*lines, *self._end()))

    def as_json(self) -> dict[str, object]:
        """The query, names of the winner (or None) and of the override, and every need of each candidate."""
        query, device = self.query, self.query.device
        dtypes = {name: str(dtype).removeprefix("torch.") for name, dtype in query.dtypes.items()}
        asked = {"operation": query.operation, "device": device.type, "arch": device.arch_name, "dtypes": dtypes}
        winner = None if self.winner is None else self.winner.name
        candidates = [candidate.as_json() for candidate in self.candidates]
        asked |= {"dims": dict(query.dims), "format": query.format}
        return {"query": asked, "winner": winner, "override": self.override, "candidates": candidates}

    def _head(self) -> str:
        return f"{self.query.operation} on {_text(self.query)}"

    def _end(self) -> tuple[str, ...]:
        return () if self.winner else ("  nothing serves this call",)

    def _line(self, candidate: Candidate) -> str:
        spec = candidate.spec
        label = f"  {spec.name} ({spec.origin}, band {band_name(spec.band)})"
        if spec is self.winner:
            return f"{label}: CHOSEN" + (f" by override {self.override!r}" if self.override else "")
        if candidate.objections:
            return f"{label}: cannot: {'; '.join(candidate.objections)}"
        if self.override:
            return f"{label}: can, but override {self.override!r} names another"
        return f"{label}: can, ranks lower{self._why_lower(spec)}"

    def _why_lower(self, spec: KernelSpec) -> str:
        assert self.winner is not None
        if spec.band < self.winner.band:
            return f": band {band_name(spec.band)} is below {band_name(self.winner.band)}"
        return f": same band, its name sorts after {self.winner.name!r}"


def _text(query: Query) -> str:
    arch = f" {query.device.arch_name}".rstrip()
    dtypes = " ".join(f"{name}={str(dtype).removeprefix('torch.')}" for name, dtype in query.dtypes.items())
    dims = " ".join(f"{name}={size}" for name, size in query.dims.items())
    return " ".join(filter(None, (query.device.type + arch, dtypes, f"format={query.format}", dims)))
