"""Names of the checkpoint's vision tensors, and the module and part that each one fills."""

from collections.abc import Iterator
from typing import Final

from ....checkpoint.table import Entry
from .config import VisionConfig

PREFIXES: Final = ("vision_tower.", "mm_projector.")
KINDS: Final = ("weight", "bias")
BLOCK: Final = (("norm0", "norm0"), ("norm1", "norm1"), ("wqkv", "qkv"), ("wo", "out"))


def vision_entries(config: VisionConfig, module: str) -> Iterator[Entry]:
    """Every tensor of the tower and the projector, for the tower at ``module`` of the model."""
    yield Entry("vision_tower.patch_embed.pos_emb.weight", f"{module}.embed", "positions")
    yield from _pair("vision_tower.patch_embed.proj", f"{module}.embed")
    for i in range(config.layers):
        name, block = f"vision_tower.encoder.blocks.{i}", f"{module}.blocks.{i}"
        for theirs, ours in BLOCK:
            yield from _pair(f"{name}.{theirs}", f"{block}.{ours}")
        yield from _pair(f"{name}.mlp.fc0", f"{block}.mlp", "up.")
        yield from _pair(f"{name}.mlp.fc1", f"{block}.mlp", "down.")
    yield from _pair("vision_tower.encoder.final_layernorm", f"{module}.norm")
    yield from _pair("mm_projector.pre_norm", f"{module}.pre_norm")
    yield from _pair("mm_projector.proj.0", f"{module}.projector", "up.")
    yield from _pair("mm_projector.proj.2", f"{module}.projector", "down.")


def _pair(name: str, module: str, part: str = "") -> Iterator[Entry]:
    yield from (Entry(f"{name}.{kind}", module, part + kind) for kind in KINDS)
