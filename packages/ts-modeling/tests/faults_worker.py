"""One rank of ``test_faults_spmd``: joins a mesh of two ranks, runs one job, prints what it saw or the error's text.

Usage: faults_worker.py JOB CHECKPOINT SECONDS, with torchrun's variables set
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from ts_modeling import LoadedModel, Mesh, ModelingError, join, leave, load_model
from ts_modeling.testing import Sequences


def attempt(action: Callable[[], object]) -> None:
    """Print ``fine``, or the kind of error and its text."""
    try:
        action()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    else:
        print("fine", flush=True)


def step(model: LoadedModel, tokens: list[int], sizes: tuple[int, ...] = ()) -> torch.Tensor:
    """Logits of one prompt."""
    rows = Sequences(1, 16)
    batch = rows.batch(prefills=[(0, tokens)])
    batch.dp_sizes = sizes
    return model.forward(batch, model.new_cache(rows.num_pages, rows.page_size))


def sizes(mesh: Mesh, checkpoint: Path) -> None:
    """Of every wrong ``dp_sizes`` each rank can see that it is; the right ones still work."""
    model = load_model(checkpoint, dtype="float32", mesh=mesh)
    own = [[1, 2, 3], [4, 5]][mesh.rank]
    for wrong in [((4, 2), (3, 1))[mesh.rank], (3, 2, 0), (3.0, 2.0), (3, -2)]:
        attempt(lambda wrong=wrong: step(model, own, wrong))  # type: ignore[misc]
    attempt(lambda: step(model, own, (3, 2)))


def ids(mesh: Mesh, checkpoint: Path) -> None:
    """Outside of the vocabulary on either side, in other ranks' rows, and good ones."""
    model = load_model(checkpoint, dtype="float32", mesh=mesh)
    for tokens in ([1, 32000, 3], [-7, 2], [0, 159, 160, 319]):
        attempt(lambda tokens=tokens: step(model, tokens))  # type: ignore[misc]


JOBS = {"ids": ("attn_tp=2", ids), "sizes": ("attn_dp=2,moe_ep=2", sizes)}
"""Mesh and function."""


def main() -> int:
    """Run the job."""
    name, checkpoint, seconds = sys.argv[1:]
    torch.set_num_threads(1)
    text, job = JOBS[name]
    try:
        job(join(text, timeout=float(seconds)), Path(checkpoint))
    except ModelingError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return 3
    leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
