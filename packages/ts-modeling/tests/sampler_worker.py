"""One rank of ``test_sampler``: draws tokens of logits that are cut over the vocabulary.

Usage: sampler_worker.py CHECKPOINT STORE RANK WORLD OUTPUT MESH [MESH...]
"""

import sys

import numpy as np
import torch
from ranks import part_of_step, run_jobs, spread
from ts_kernels import sampling
from ts_modeling import LoadedModel, Mesh, SampledRows, load_model
from ts_modeling.testing import Sequences, new_cache

PROMPTS = [[(17 * i + 5 * s) % 320 for i in range(length)] for s, length in enumerate((13, 6, 9, 5))]
STEPS = ({s: (0, len(prompt) - 1) for s, prompt in enumerate(PROMPTS)}, {0: (12, 13), 1: (5, 6)}, {3: (4, 5)})
"""The last ones leave groups idle."""
CANDIDATES = 6
TEMPERATURES, TOP_KS, TOP_PS = (0.0, 0.7, 1.5, 1.0), (0, 1, 5, 6), (1.0, 0.5, 0.8, 1.0)
"""Of the sequences: greedy, and such as may be drawn among candidates."""


def rows_of(logits: torch.Tensor, sequences: list[int], step: int) -> SampledRows:
    def of(values: tuple[float, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([values[s] for s in sequences], dtype=dtype)

    seeds = torch.tensor([1000 + s for s in sequences], dtype=torch.int64)
    positions = torch.full((len(sequences),), step, dtype=torch.int64)
    temperature, top_p = of(TEMPERATURES, torch.float32), of(TOP_PS, torch.float32)
    return SampledRows(logits, temperature, of(TOP_KS, torch.int32), top_p, seeds, positions)


def run(model: LoadedModel, mesh: Mesh) -> np.ndarray:
    """Token and log probability of each sequence, and its token where it may be any, [steps, 4, 3], eight draws a step;
    NaN where it has none here."""
    assert model.sampler
    rows = Sequences(4, 32, seed=2)
    cache = new_cache(model, rows)
    out: list[np.ndarray] = []
    for number, step in enumerate(STEPS):
        batch, work = part_of_step(rows, PROMPTS, step, mesh)
        logits, sequences = model.forward(batch, cache), [s for s, _ in work]
        for draw in range(8):
            drawn = rows_of(logits, sequences, 8 * number + draw)
            tokens, logprobs = model.sampler.draw(drawn)
            hot, anything = torch.ones_like(drawn.temperature), torch.zeros_like(drawn.top_k)
            free = sampling.sample(
                model.sampler.gather(drawn), hot, anything, drawn.top_p, drawn.seeds, drawn.positions
            )
            out.append(spread(torch.stack([tokens.float(), logprobs, free.float()], dim=1), sequences, 4))
    return np.stack(out)


def main() -> None:
    """Run every mesh."""
    checkpoint, store, rank, world, output, *meshes = sys.argv[1:]

    def job(text: str, mine: int) -> np.ndarray:
        mesh = Mesh.parse(text, rank=mine)
        return run(load_model(checkpoint, dtype="float32", mesh=mesh, candidates=CANDIDATES), mesh)

    run_jobs(job, store=store, rank=rank, world=world, output=output, jobs=meshes)


if __name__ == "__main__":
    main()
