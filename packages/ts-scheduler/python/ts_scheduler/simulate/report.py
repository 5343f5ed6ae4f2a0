"""An outcome's figures: a table, JSON and a plot."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ts_scheduler.simulate.fleet import Fleet
from ts_scheduler.simulate.replica import Outcome

Figures = dict[str, float]


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of the values are below (nearest rank); NaN of none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def figures(fleet: Fleet, outcome: Outcome) -> Figures:
    """What one fleet did: rates a user and a GPU, waits in seconds, shares from 0 to 1."""
    minutes = outcome.seconds / 60
    per_gpu = max(minutes * outcome.gpus, 1e-9)
    return {
        "replicas": fleet.replicas,
        "users a replica": fleet.options.users / fleet.replicas,
        "tps/user p50": percentile(outcome.user_tps, 0.5),
        "tps/user p10": percentile(outcome.user_tps, 0.1),
        "tpm/GPU": (outcome.prompt_tokens + outcome.output_tokens) / per_gpu,
        "output tpm/GPU": outcome.output_tokens / per_gpu,
        "user-seconds below the floor": outcome.slow_seconds / max(outcome.decode_seconds, 1e-9),
        "queue p50 s": percentile(outcome.queue_s, 0.5),
        "queue p99 s": percentile(outcome.queue_s, 0.99),
        "first token p50 s": percentile(outcome.first_token_s, 0.5),
        "first token p99 s": percentile(outcome.first_token_s, 0.99),
        "hit rate": outcome.cached_tokens / max(outcome.prompt_tokens, 1),
        "preemptions": outcome.preemptions,
        "step ms": 1000 * outcome.step_seconds / max(outcome.steps, 1),
        "finished requests": len(outcome.first_token_s),
    }


def table(rows: list[Figures]) -> str:
    """A line a figure, a column a fleet."""
    width = max(len(name) for name in rows[0])
    return "\n".join(f"{name:<{width}}" + "".join(f" {_short(row[name]):>10}" for row in rows) for name in rows[0])


def write_json(target: Path, fleets: list[Fleet], rows: list[Figures]) -> None:
    """Everything that went in, and the figures that came out."""
    record: dict[str, Any] = {
        "device": asdict(fleets[0].device),
        "workload": asdict(fleets[0].workload),
        "options": asdict(fleets[0].options),
        "figures": rows,
    }
    target.write_text(json.dumps(record, indent=1) + "\n")


def plot(target: Path, fleets: list[Fleet], rows: list[Figures]) -> None:
    """Tokens a second a user against tokens a minute a GPU; waits; hit rate and time below the floor.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (rates, waits, shares) = plt.subplots(1, 3, figsize=(14, 4.2))
    x = [row["users a replica"] for row in rows]
    for name, label in (("tps/user p50", "median user"), ("tps/user p10", "slowest tenth")):
        rates.plot([row[name] for row in rows], [row["tpm/GPU"] for row in rows], marker="o", label=label)
    for row in rows:
        rates.annotate(f"{row['users a replica']:g}", (row["tps/user p50"], row["tpm/GPU"]), fontsize=8)
    floor = fleets[0].options.floor_tps
    rates.axvline(floor, color="gray", ls=":", label=f"floor {floor:g}")
    rates.set(xlabel="tokens/s a user", ylabel="tokens/min a GPU, prompts included", title="numbers: users a replica")
    for name in ("queue p50 s", "queue p99 s", "first token p50 s", "first token p99 s"):
        waits.plot(x, [row[name] for row in rows], marker="o", label=name.removesuffix(" s"))
    waits.set(xlabel="users a replica", ylabel="seconds", title="waiting", yscale="log")
    for name in ("hit rate", "user-seconds below the floor"):
        shares.plot(x, [row[name] for row in rows], marker="o", label=name)
    shares.set(xlabel="users a replica", title="shares", ylim=(-0.02, 1.02))
    for axes in (rates, waits, shares):
        axes.legend(fontsize=8)
    for axes in (waits, shares):
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{users:g}" for users in x], minor=False)
        axes.set_xticks([], minor=True)
    fleet = fleets[0]
    figure.suptitle(f"simulated: {fleet.options.users:,} users, {fleet.workload.name}, {fleet.device.name}")
    figure.tight_layout()
    figure.savefig(target, dpi=110)


def _short(value: float) -> str:
    return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
