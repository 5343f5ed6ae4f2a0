"""One rank of ``test_faults_spmd``: joins the other one, runs jobs, prints for each what it saw or the error's text.

Usage: faults_worker.py SECONDS JOB=FOLDER [JOB=FOLDER...], with torchrun's variables set
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from ts_modeling import LoadedModel, Mesh, ModelingError, join, leave, load_model
from ts_modeling.communication import Communicator
from ts_modeling.compiler import Costs, Policy
from ts_modeling.registry import build, read_config
from ts_modeling.testing import Sequences

SECONDS = float(sys.argv[1])


def attempt(job: str, action: Callable[..., object], *args: object) -> None:
    """Print ``fine``, or the kind of error and its text."""
    try:
        action(*args)
    except Exception as error:
        print(f"{job}: {type(error).__name__}: {error}", flush=True)
    else:
        print(f"{job}: fine", flush=True)


def step(model: LoadedModel, tokens: list[int], sizes: tuple[int, ...] = ()) -> None:
    """One prompt."""
    rows = Sequences(1, 16)
    batch = rows.batch(prefills=[(0, tokens)])
    batch.dp_sizes = sizes
    model.forward(batch, model.new_cache(rows.num_pages, rows.page_size))


def sizes(folder: Path, rank: int) -> None:
    """Of every wrong ``dp_sizes`` each rank can see that it is; the right ones still work."""
    model = load_model(folder, dtype="float32", mesh=Mesh.parse("attn_dp=2,moe_ep=2", rank=rank))
    own = [[1, 2, 3], [4, 5]][rank]
    for given in [((4, 2), (3, 1))[rank], (3, 2, 0), (3.0, 2.0), (3, -2), (3, 2)]:
        attempt("sizes", step, model, own, given)


def ids(folder: Path, rank: int) -> None:
    """Outside of the vocabulary on either side, in other ranks' rows, and good ones."""
    model = load_model(folder, dtype="float32", mesh=Mesh.parse("attn_tp=2", rank=rank))
    for tokens in ([1, 32000, 3], [-7, 2], [0, 159, 160, 319]):
        attempt("ids", step, model, tokens)


def differ(folder: Path, rank: int) -> None:
    """Ranks that hold another mesh, model, type or plan; then the same ones."""

    def load(name: str, mesh: str = "attn_tp=2", dtype: str = "float32", *, cut: bool = False) -> None:
        costs = Costs(only=Policy(cut_tokens=cut))
        load_model(folder / name, dtype=dtype, mesh=Mesh.parse(mesh, rank=rank), load_format="dummy", costs=costs)

    attempt("differ", load, "llama", ("attn_tp=2", "attn_dp=2")[rank])
    attempt("differ", load, ("llama", "qwen3")[rank])
    attempt("differ", load, ("llama", "short")[rank])
    attempt("differ", load, ("llama", "turned")[rank])
    attempt("differ", load, "llama", "attn_tp=2", ("float32", "bfloat16")[rank])
    attempt("differ", lambda: load("llama", cut=bool(rank)))
    attempt("differ", load, "llama")


def patience(folder: Path, rank: int) -> None:
    """How long a plan's groups wait."""
    mesh = Mesh.parse("attn_tp=2", rank=rank)
    config, place = read_config(folder), torch.device("cpu")
    built = build(config, mesh, dtype=torch.float32, device=place, positions=8)
    for group in Communicator(*built.plans.programs).groups.values():
        print(f"patience: {group._get_backend(place).options._timeout.total_seconds() == SECONDS}", flush=True)


def gone(folder: Path, rank: int) -> None:
    """One rank dies in the third step."""
    model = load_model(folder, dtype="float32", mesh=Mesh.parse("attn_tp=2", rank=rank))
    for number in range(5):
        if (number, rank) == (2, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        step(model, [number])


def main() -> int:
    """Run the jobs."""
    torch.set_num_threads(1)
    mesh = join("attn_tp=2", timeout=SECONDS)
    assert dist.is_initialized()
    for text in sys.argv[2:]:
        name, _, folder = text.partition("=")
        job = {"sizes": sizes, "ids": ids, "differ": differ, "patience": patience, "gone": gone}[name]
        try:
            job(Path(folder), mesh.rank)
        except ModelingError as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            return 3
    leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
