"""Speed through HTTP: ts-entry against llama.cpp's server and transformers, on the bundled miniature, in one run.

Usage: uv run python -m tools.bench.serving [--json FILE] [--peers llama.cpp,transformers] [--threads 2]

llama.cpp comes as the xllamacpp wheel, in an environment of its own that uv makes on first use.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.bench.serving import machine, scenarios
from tools.bench.serving.client import Timing, stream
from tools.bench.serving.launch import MINIATURE, TS_ENTRY, free_port, sample_text, server

LLAMA = ["uv", "run", "--no-project", "--with", "xllamacpp", "--with", "gguf", "--with", "numpy", "python"]


def measure(send: scenarios.Send, text: Sequence[int], chosen: Iterable[scenarios.Scenario]) -> dict[str, float]:
    """Median figure of each scenario, after one request that warms the server up."""

    async def body() -> dict[str, float]:
        await send(text[:64], 16)
        results = {}
        for number, scenario in enumerate(chosen):
            results[scenario.name] = statistics.median(await scenarios.run(scenario, send, text, 15485863 * number))
        return results

    return asyncio.run(body())


def second_turn(send: scenarios.Send, text: Sequence[int]) -> dict[str, float]:
    """How long the second turn of an 8K conversation waits, in seconds and against the first turn."""
    first, second = asyncio.run(scenarios.second_turn(send, text))
    return {
        "second turn of 8K: first token, share of the first turn's": second / first,
        "second turn of 8K: first token, seconds": second,
    }


def measure_ts(text: Sequence[int], extra: list[str]) -> dict[str, float]:
    """ts-entry with its defaults, through /v1/completions."""
    port = free_port()

    async def send(prompt: Sequence[int], tokens: int) -> Timing:
        body = {"model": "kimi-k2.5", "prompt": list(prompt), "max_tokens": tokens, "temperature": 0}
        body |= {"ignore_eos": True, "stream": True}
        return await stream(port, "/v1/completions", body, b'"text":')

    with server([*TS_ENTRY, "--port", str(port), *extra], port, "/readiness"):
        return measure(send, text, scenarios.SCENARIOS) | second_turn(send, text)


def measure_llama(text: Sequence[int], threads: int) -> dict[str, float]:
    """llama.cpp's server on the same weights in bf16, through /completion."""

    def run(slots: int, context: int, chosen: list[scenarios.Scenario]) -> dict[str, float]:
        port = free_port()

        async def send(prompt: Sequence[int], tokens: int) -> Timing:
            body = {"prompt": list(prompt), "n_predict": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
            return await stream(port, "/completion", body, b'"stop":false')

        folder = Path(__file__).parent
        command = [*LLAMA, str(folder / "llama_server.py"), gguf, str(port), str(slots), str(context), str(threads)]
        with server(command, port, "/health"):
            return measure(send, text, chosen)

    with tempfile.TemporaryDirectory() as scratch:
        gguf = str(Path(scratch) / "miniature.gguf")
        subprocess.run([*LLAMA, str(Path(__file__).parent / "gguf_miniature.py"), str(MINIATURE), gguf], check=True)
        many = [s for s in scenarios.SCENARIOS if s.together == 16]
        few = [s for s in scenarios.SCENARIOS if s.together < 16]
        return run(16, 512, many) | run(4, 8704, few)


def table(results: dict[str, dict[str, float]]) -> str:
    """A markdown table: a row a scenario, a column a server, and ts-entry's ratio to each peer."""
    peers = [name for name in results if name != "ts-entry"]
    targets = {s.name: s.target for s in scenarios.SCENARIOS}
    rows = ["| case | asked | ts-entry | " + " | ".join(f"{p} | ratio" for p in peers) + " |"]
    rows.append("|---" * (3 + 2 * len(peers)) + "|")
    for name, value in results["ts-entry"].items():
        target = targets.get(name)
        cells = [name, f"{target:,.0f}" if target else "", f"{value:,.3g}" if value < 100 else f"{value:,.0f}"]
        for peer in peers:
            other = results[peer].get(name)
            cells += [f"{other:,.0f}", f"{value / other:.1f}x"] if other else ["", ""]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    """Measure, print the table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peers", default="llama.cpp,transformers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--server-flag", action="append", default=[], help="passed on to ts-entry, e.g. --threads=1")
    args = parser.parse_args()
    text = sample_text()
    results = {"ts-entry": measure_ts(text, args.server_flag)}
    if "llama.cpp" in args.peers:
        results["llama.cpp"] = measure_llama(text, args.threads)
    if "transformers" in args.peers:
        import torch

        from tools.bench.serving import transformers_peer

        results["transformers fp32"] = transformers_peer.measure(MINIATURE, text, torch.float32, args.threads)
        results["transformers bf16"] = transformers_peer.measure(MINIATURE, text, torch.bfloat16, args.threads)
    print(table(results))
    if args.json:
        record = {"machine": machine.describe(), "tokens a second": results}
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
