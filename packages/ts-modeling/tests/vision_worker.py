"""One rank of ``test_vision_spmd``: encodes images and runs one prefill under several meshes, and writes both.

Usage: vision_worker.py CHECKPOINT STORE RANK WORLD OUTPUT MESH/POLICY [MESH/POLICY...]

A policy is empty, or ``cut`` (tokens cut between blocks).
"""

import sys

import numpy as np
import torch
from ranks import run_jobs, spread
from ts_modeling import Mesh, load_model
from ts_modeling.compiler import Costs, Policy
from ts_modeling.testing import MEDIA_TOKEN, Sequences
from ts_modeling.vision import Patches, media_tokens, place_media

GRIDS: tuple[tuple[tuple[int, int, int], ...], ...] = (((1, 4, 6), (1, 2, 2)), (), ((3, 2, 4),))
"""Images of each sequence; the second has none, so that with two attn_dp groups one has nothing to encode."""


def images() -> list[list[Patches]]:
    """The same on every rank."""
    generator = torch.Generator().manual_seed(1)
    return [
        [Patches(torch.randn(t * h * w, 3, 14, 14, generator=generator), (t, h, w)) for t, h, w in grids]
        for grids in GRIDS
    ]


def run(checkpoint: str, mesh: Mesh, policy: str) -> np.ndarray:
    """Logits of each sequence's last token; NaN for those of other groups."""
    costs = Costs(only=Policy(cut_tokens=policy == "cut"))
    model = load_model(checkpoint, dtype="float32", mesh=mesh, vision=True, costs=costs)
    assert model.vision is not None
    groups, group = mesh.size("attn_dp"), mesh.index(mesh.atoms("attn_dp"))
    owned = [[s for s in range(3) if s % groups == g] for g in range(groups)]
    work = images()
    sizes = tuple(sum(len(c.pixels) for s in mine for c in work[s]) for mine in owned)
    features = model.vision.encode([c for s in owned[group] for c in work[s]], dp_sizes=sizes)
    prompts = [[5, 6 + s] + [MEDIA_TOKEN] * sum(map(media_tokens, work[s])) + [8, 9] for s in range(3)]
    rows = Sequences(3, 32, seed=2)
    batch = rows.batch(prefills=[(s, prompts[s]) for s in owned[group]], every=False)
    batch.dp_sizes = tuple(sum(len(prompts[s]) for s in mine) for mine in owned)
    batch.media = place_media(batch.tokens, features, MEDIA_TOKEN)
    logits = model.forward(batch, model.new_cache(rows.num_pages, rows.page_size))
    return spread(logits, owned[group], 3)


def main() -> None:
    """Run every mesh."""
    checkpoint, store, rank, world, output, *meshes = sys.argv[1:]

    def one(text: str, mine: int) -> np.ndarray:
        mesh, _, policy = text.partition("/")
        return run(checkpoint, Mesh.parse(mesh, rank=mine), policy)

    run_jobs(one, store=store, rank=rank, world=world, output=output, jobs=meshes)


if __name__ == "__main__":
    main()
