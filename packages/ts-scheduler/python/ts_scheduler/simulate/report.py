"""An outcome's figures: a table, JSON and a plot."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ts_scheduler.simulate.fleet import Fleet
from ts_scheduler.simulate.replica import Outcome

Figures = dict[str, float]
_OWN = ("min_tps", "chunk_tokens")  # each fleet's own: among its figures


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
        "min tps": fleet.options.min_tps,
        "chunk tokens": fleet.options.chunk_tokens,
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
        "options": {name: value for name, value in asdict(fleets[0].options).items() if name not in _OWN},
        "figures": rows,
    }
    target.write_text(json.dumps(record, indent=1) + "\n")


def plot(target: Path, fleets: list[Fleet], rows: list[Figures]) -> None:
    """Rates of users and GPUs, waits, first tokens and shares; a colour for each floor and chunk.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, ((rates, queue), (first, shares)) = plt.subplots(2, 2, figsize=(12, 8.5))
    chunks = {row["chunk tokens"] for row in rows}
    for number, (min_tps, chunk) in enumerate(dict.fromkeys(map(_policy, rows))):
        some = sorted((row for row in rows if _policy(row) == (min_tps, chunk)), key=lambda row: row["replicas"])
        name = f"--min-tps {min_tps:g}" if min_tps else "no floor"
        name += f", chunks of {chunk:g}" if len(chunks) > 1 else ""
        _rates(rates, some, name, number)
        _by_users(queue, some, f"C{number}", {"queue p50 s": f"{name}, median", "queue p99 s": f"{name}, 99th"})
        labels = {"first token p50 s": f"{name}, median", "first token p99 s": f"{name}, 99th"}
        _by_users(first, some, f"C{number}", labels)
        labels = {"hit rate": f"{name}, hit rate", "user-seconds below the floor": f"{name}, time below"}
        _by_users(shares, some, f"C{number}", labels)
    fleet = fleets[0]
    line = fleet.options.floor_tps
    rates.axvline(line, color="gray", ls=":", label=f"{line:g} tokens/s")
    rates.set(
        xlabel="tokens/s a user gets while an answer comes", ylabel="tokens/min a GPU, prompts included, thousands"
    )
    rates.set(title="rates (the numbers: users a replica)")
    rates.set_ylim(0, 1.1 * max(row["tpm/GPU"] for row in rows) / 1000)
    queue.set(title="from a turn's arrival to its first step", ylabel="seconds", yscale="log")
    first.set(title="from a turn's arrival to its first token", ylabel="seconds", yscale="log")
    shares.set(title=f"prompts from the cache, answers below {line:g} tokens/s", ylabel="share", ylim=(-0.02, 1.02))
    for axes in (rates, queue, first, shares):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.25)
    for axes in (queue, first, shares):
        axes.set_xlabel("users a replica")
    figure.suptitle(f"Simulated: {fleet.options.users:,} users, {fleet.workload.name}, {fleet.device.name}")
    figure.tight_layout()
    figure.savefig(target, dpi=100)


def _policy(row: Figures) -> tuple[float, float]:
    return row["min tps"], row["chunk tokens"]


def _rates(axes: Any, rows: list[Figures], name: str, number: int) -> None:
    """Tokens a minute a GPU over tokens a second a user; the first line's numbers right of it, the others' left."""
    color = f"C{number}"
    y = [row["tpm/GPU"] / 1000 for row in rows]
    for share, style, label in (("p50", "o-", "median user"), ("p10", "o--", "slowest tenth")):
        fill = color if share == "p50" else "white"
        x = [row[f"tps/user {share}"] for row in rows]
        axes.plot(x, y, style, color=color, markerfacecolor=fill, label=f"{name}, {label}")
    side: dict[str, Any] = {"xytext": (-14, -3), "ha": "right"} if number else {"xytext": (6, 3)}
    for row, height in zip(rows, y, strict=True):
        text, place = f"{row['users a replica']:.3g}", (row["tps/user p50"], height)
        axes.annotate(text, place, textcoords="offset points", fontsize=8, color=color, **side)


def _by_users(axes: Any, rows: list[Figures], color: str, labels: dict[str, str]) -> None:
    """Some figures over the users of a replica: the first one's line is solid, the second's dashed."""
    x = [row["users a replica"] for row in rows]
    for (figure, label), style in zip(labels.items(), ("o-", "o--"), strict=True):
        fill = color if style == "o-" else "white"
        axes.plot(x, [row[figure] for row in rows], style, color=color, markerfacecolor=fill, label=label)


def _short(value: float) -> str:
    return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
