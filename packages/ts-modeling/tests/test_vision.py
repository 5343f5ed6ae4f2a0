"""The vision tower against transformers' implementation, alone and in front of the text model."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from ts_modeling import CheckpointError, ConfigError, ForwardBatch, LoadedModel, MeshError, load_model
from ts_modeling.cli import main
from ts_modeling.command import named_config
from ts_modeling.compiler.program import Program, collective_of
from ts_modeling.placement import Mesh
from ts_modeling.registry import Built, build
from ts_modeling.testing import (
    MEDIA_TOKEN,
    Sequences,
    assert_close,
    tiny_config,
    vision_oracle,
    write_checkpoint,
    write_vision_checkpoint,
)
from ts_modeling.vision import Patches, media_tokens, place_media

CONFIGS: dict[str, dict[str, Any]] = {
    "three_heads": {},
    "five_heads": {
        "vt_num_attention_heads": 5,
        "vt_hidden_size": 40,
        "init_pos_emb_height": 9,
        "init_pos_emb_width": 9,
    },
    "one_head": {
        "vt_num_attention_heads": 1,
        "vt_num_hidden_layers": 1,
        "vt_hidden_size": 28,
        "patch_size": 6,
        "merge_kernel_size": [1, 3],
        "init_pos_emb_time": 7,
        "projector_ln_eps": 1e-2,
    },
}
TEXT: dict[str, Any] = {"int4": False, "num_hidden_layers": 2}
GRIDS = ((1, 4, 6), (3, 2, 12), (1, 6, 6), (2, 2, 6), (1, 14, 18))
"""Frames, rows, columns: images and chunks of videos, smaller and larger than the learned table, and just its size."""


def random_chunks(side: int, grids: tuple[tuple[int, int, int], ...] = GRIDS) -> list[Patches]:
    generator = torch.Generator().manual_seed(3)
    return [Patches(torch.randn(t * h * w, 3, side, side, generator=generator), (t, h, w)) for t, h, w in grids]


@torch.no_grad()
def oracle_rows(reference: Any, chunk: Patches) -> Tensor:
    """One chunk at a time: transformers cannot join chunks of different numbers of frames."""
    pooled = reference.model.vision_tower(chunk.pixels, grid_thw=torch.tensor([chunk.grid])).pooler_output
    rows: Tensor = reference.model.mm_projector(pooled).squeeze(1)
    return rows


@pytest.fixture(scope="module", params=CONFIGS, ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Any]:
    """The checkpoint has the published names, which transformers' own mapping must read completely."""
    folder = tmp_path_factory.mktemp(request.param)
    write_vision_checkpoint(folder, vision=CONFIGS[request.param], **TEXT)
    return load_model(folder, dtype="float32", vision=True), vision_oracle(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with INT4 experts and a tower."""
    folder = tmp_path_factory.mktemp("vision")
    write_vision_checkpoint(folder)
    return folder


def test_features_of_a_mixed_batch_equal_transformers(pair: tuple[LoadedModel, Any]) -> None:
    model, reference = pair
    assert model.vision is not None
    chunks = random_chunks(model.vision.config.patch)
    expected = [oracle_rows(reference, chunk) for chunk in chunks]
    assert_close(model.vision.encode(chunks), torch.cat(expected))
    assert [len(rows) for rows in expected] == [media_tokens(c, model.vision.config.merge) for c in chunks]


def test_features_of_thin_images_equal_transformers(pair: tuple[LoadedModel, Any]) -> None:
    """One merged row or column, longer than the learned table, and one merged patch alone."""
    model, reference = pair
    assert model.vision is not None
    shape = model.vision.config
    high, wide = shape.merge
    grids = (
        (1, high, 31 * wide),
        (shape.frames, 33 * high, wide),
        (2, high, wide),
        (1, high, wide),
        (1, 17 * high, wide),
    )
    chunks = random_chunks(shape.patch, grids)
    assert_close(model.vision.encode(chunks), torch.cat([oracle_rows(reference, chunk) for chunk in chunks]))


def test_no_images_give_no_rows(pair: tuple[LoadedModel, Any]) -> None:
    model, _ = pair
    assert model.vision is not None
    assert model.vision.encode([]).shape == (0, 64)


def prompt_of(chunks: list[Patches], merge: tuple[int, int]) -> list[int]:
    tokens = [7, 11]
    for number, chunk in enumerate(chunks):
        tokens += [20 + number] + [MEDIA_TOKEN] * media_tokens(chunk, merge) + [40 + number, 41]
    return tokens


def run(model: LoadedModel, steps: list[list[int]], features: Tensor) -> Tensor:
    """Logits of one sequence fed in ``steps``, each with the features of its own media tokens."""
    rows = Sequences(1, sum(map(len, steps)))
    cache, out, used = model.new_cache(rows.num_pages, rows.page_size), [], 0
    for tokens in steps:
        batch = rows.batch(prefills=[(0, tokens)])
        count = tokens.count(MEDIA_TOKEN)
        batch.media = place_media(batch.tokens, features[used : used + count], MEDIA_TOKEN)
        out.append(model.forward(batch, cache))
        used += count
    assert used == len(features)
    return torch.cat(out)


def test_logits_of_text_and_images_equal_transformers(pair: tuple[LoadedModel, Any]) -> None:
    """transformers does the whole way from pixels; ours whole, and in chunks that cut the images apart."""
    model, reference = pair
    assert model.vision is not None
    shape = model.vision.config
    chunks = random_chunks(shape.patch, ((1, 4, 6), (1, 6, 12)))
    tokens, features = prompt_of(chunks, shape.merge), model.vision.encode(chunks)
    with torch.no_grad():
        expected = reference(
            input_ids=torch.tensor([tokens]),
            pixel_values=torch.cat([c.pixels for c in chunks]),
            image_grid_thw=torch.tensor([c.grid for c in chunks]),
        ).logits[0]
    assert_close(run(model, [tokens], features), expected)
    assert_close(run(model, [tokens[:5], tokens[5:6], tokens[6:17], tokens[17:]], features), expected)


def test_bfloat16_stays_close(folder: Path) -> None:
    chunks = random_chunks(14)
    exact, rounded = (load_model(folder, dtype=d, vision=True).vision for d in ("float32", "bfloat16"))
    assert exact is not None
    assert rounded is not None
    ours = rounded.encode(chunks)
    assert ours.dtype == torch.bfloat16
    assert_close(ours.float(), exact.encode(chunks), 5e-2)


def text_logits(model: LoadedModel) -> Tensor:
    rows = Sequences(1, 8)
    batch = rows.batch(prefills=[(0, [3, 1, 4, 1, 5, 9, 2, 6])])
    return model.forward(batch, model.new_cache(rows.num_pages, rows.page_size))


def test_text_alone_is_compiled_as_if_there_were_no_tower(folder: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    without, text, both = (
        load_model(f, dtype="float32", vision=v) for f, v in ((tmp_path, False), (folder, False), (folder, True))
    )
    assert text.vision is None
    assert text.code == without.code
    assert text.code != both.code
    assert torch.equal(text_logits(text), text_logits(without))
    assert torch.equal(text_logits(both), text_logits(without))


def test_text_alone_does_not_look_at_the_tower(tmp_path: Path) -> None:
    """A tower that nothing could load is no hindrance; asked for, what is wrong with it is named."""
    write_vision_checkpoint(tmp_path)
    edit_config(tmp_path, {"vt_num_attention_heads": "many"})
    read: list[str] = []
    assert load_model(tmp_path, progress=lambda _d, _t, module: read.append(module)).vision is None
    assert not [module for module in read if module.startswith("vision")]
    with pytest.raises(ConfigError, match=r"vision_config: .*`vt_num_attention_heads`"):
        load_model(tmp_path, vision=True)


def test_dummy_weights(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    model = load_model(tmp_path, load_format="dummy", vision=True)
    assert model.vision is not None
    rows = model.vision.encode(random_chunks(14))
    assert torch.isfinite(rows).all()
    assert 0.01 < float(rows.std()) < 10


def edit_config(folder: Path, changes: dict[str, Any], outer: dict[str, Any] | None = None) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw["vision_config"] = {**raw["vision_config"], **changes}
    (folder / "config.json").write_text(json.dumps({**raw, **(outer or {})}))


QKV = "vision_tower.encoder.blocks.1.wqkv.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(QKV), f"{QKV} missing"),
        (
            lambda t: t.update({"vision_tower.encoder.blocks.2.norm0.bias": torch.zeros(36)}),
            "blocks.2.norm0.bias unknown",
        ),
        (
            lambda t: t.update({"mm_projector.post_norm.weight": torch.zeros(64)}),
            "mm_projector.post_norm.weight unknown",
        ),
        (lambda t: t.update({QKV: t[QKV][:-36].clone()}), f"{QKV} has shape [72], config.json asks for [108]"),
        (
            lambda t: t.update({"mm_projector.proj.2.weight": t["mm_projector.proj.2.weight"].T.contiguous()}),
            "mm_projector.proj.2.weight has shape [144, 64], config.json asks for [64, 144]",
        ),
        (lambda t: t.update({QKV: t[QKV].to(torch.int8)}), f"{QKV} is int8"),
    ],
)
def test_vision_tensors_that_do_not_fit_are_named(tmp_path: Path, change: Any, message: str) -> None:
    write_vision_checkpoint(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    load_model(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path, vision=True)
    assert message in str(caught.value)


def test_heads_that_do_not_divide_are_named(folder: Path) -> None:
    with pytest.raises(MeshError, match="number of heads = 3 does not divide over attn_tp=2"):
        load_model(folder, mesh=Mesh(2, {"attn_tp": 2}), vision=True)


def test_a_batch_without_images_needs_no_field() -> None:
    assert ForwardBatch.__dataclass_fields__["media"].default is None


def plans(mesh: str, *, vision: bool) -> Built:
    config = named_config("kimi-k2.5", vision=vision)
    return build(config, Mesh.parse(mesh), dtype=torch.bfloat16, device=torch.device("cpu"), positions=1)


def collectives(program: Program) -> list[str]:
    return [c.kind for c in map(collective_of, program.operations) if c]


def test_the_tower_reduces_twice_a_layer_and_text_with_images_no_more_often() -> None:
    text, both = (plans("attn_tp=4,moe_tp=4", vision=v) for v in (False, True))
    assert both.vision is not None
    assert len(collectives(both.vision.plans.at(1))) == 2 * 27 + 1
    assert collectives(both.plans.at(1)) == collectives(text.plans.at(1))


def test_explain_tells_the_tower_from_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--model", "kimi-k2.5", "--vision", "--mesh", "attn_tp=4"]) == 0
    told = capsys.readouterr().out
    assert "blocks.0 to blocks.26, 27 alike" in told
    assert "232.7 MiB" in told
    assert main(["explain", "--model", "kimi-k2.5"]) == 0
    assert "vision" not in capsys.readouterr().out
    assert main(["explain", "--model", "kimi-k2.5-mini", "--vision"]) == 2
    assert "no vision_config" in capsys.readouterr().err


def test_models_without_a_tower_say_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config("llama")))
    with pytest.raises(ConfigError, match="has no vision tower here; load it without vision"):
        load_model(tmp_path, vision=True)


def test_the_example_of_the_documentation_runs() -> None:
    text = (Path(__file__).parents[3] / "docs" / "modeling" / "vision.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(compile(example, "vision.md", "exec"), scope)
    assert scope["logits"].shape == (1, 320)
