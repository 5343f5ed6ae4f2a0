"""A draft and its target hold one embedding and one head, where both read the same tensors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from ts_modeling import ConfigError, LoadedModel, Mesh, load_model
from ts_modeling.checkpoint import CheckpointFolder, Pool, load_weights
from ts_modeling.layers import Leaf
from ts_modeling.registry import build, config_from, read_config, table_of
from ts_modeling.testing import Sequences, new_cache, tiny_config, write_checkpoint, write_tiny

CPU = torch.device("cpu")
MATRIX = 320 * 64 * 2
"""Bytes of the embedding, as of the head."""


def leaf(model: LoadedModel, name: str) -> Any:
    """The module behind a name of the compiled code."""
    found = model.forward.__globals__[name].__self__
    assert isinstance(found, Leaf)
    return found


def together(one: LoadedModel, other: LoadedModel, name: str) -> bool:
    """Whether the weight of both lies in the same memory."""
    first, second = (leaf(model, name).weight for model in (one, other))
    if not isinstance(first, Tensor):
        return first is second  # packed by the kernels
    return bool(first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr())


def drafted(draft: LoadedModel, width: int) -> Tensor:
    rows = Sequences(1, 8)
    batch = rows.batch(prefills=[(0, [5, 9, 300, 7])])
    batch.features = torch.randn(4, width, generator=torch.Generator().manual_seed(1))
    out: Tensor = draft.forward(batch, new_cache(draft, rows))[0]
    return out


def test_a_layer_for_multi_token_prediction_shares_both(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, num_nextn_predict_layers=1)
    target = load_model(tmp_path, dtype="float32", final_states=True)
    read: dict[bool, int] = {}
    drafts: dict[bool, LoadedModel] = {}
    for shares in (False, True):

        def count(done: int, total: int, module: str, shares: bool = shares) -> None:
            read[shares] = done

        options = {"share": target} if shares else {}
        drafts[shares] = load_model(tmp_path, dtype="float32", draft="mtp", progress=count, **options)
    for name in ("embed", "head"):
        assert together(drafts[True], target, name)
        assert not together(drafts[False], target, name)
    assert read[False] - read[True] == 2 * MATRIX
    assert torch.equal(drafted(drafts[True], 64), drafted(drafts[False], 64))


def test_copies_in_the_layer_are_its_own(tmp_path: Path) -> None:
    """DeepSeek's files hold the embedding and the head twice, under two names: they are read as they stand there."""
    write_checkpoint(tmp_path, num_nextn_predict_layers=1, nested=False)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.3.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    target = load_model(tmp_path, dtype="float32")
    draft = load_model(tmp_path, dtype="float32", draft="mtp", share=target)
    assert not together(draft, target, "embed")
    assert together(draft, target, "head")


@pytest.mark.parametrize("own_head", [False, True])
def test_a_draft_head_shares_what_it_leaves_to_its_target(tmp_path: Path, own_head: bool) -> None:
    folder, head = tmp_path / "target", tmp_path / "draft"
    write_tiny(folder, tiny_config("llama"))
    head.mkdir()
    raw = tiny_config("llama", num_hidden_layers=1, architectures=["LlamaForCausalLMEagle3"], draft_vocab_size=320)
    raw["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": [0, 1, 2]}
    write_random(head, raw, left_out=("embed_tokens.", "d2t") if own_head else ("embed_tokens.", "d2t", "lm_head."))
    target = load_model(folder, dtype="float32")
    alone = load_model(head, dtype="float32", target=folder)
    draft = load_model(head, dtype="float32", target=folder, share=target)
    assert together(draft, target, "embed")
    assert together(draft, target, "head") is not own_head
    assert not together(alone, target, "embed")
    assert torch.equal(drafted(draft, 3 * 72), drafted(alone, 3 * 72))


def write_random(folder: Path, raw: dict[str, Any], left_out: tuple[str, ...]) -> None:
    """A checkpoint with a random tensor for each name and shape that the model asks for."""
    config = config_from(raw)
    model = build(config, Mesh.single(), dtype=torch.float32, device=CPU, positions=8).model
    leaves = dict(model.named_modules())
    generator = torch.Generator().manual_seed(2)
    tensors = {
        e.name: torch.randn(leaves[e.module].slot(e.part).shape, generator=generator) / 8
        for e in table_of(config).chosen(()).entries
        if not e.name.startswith(left_out)
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(raw))


def test_only_what_is_cut_alike_is_shared(tmp_path: Path) -> None:
    """One rank's rows are not another's, and a table that became fp32 is not one that stayed fp16."""
    write_checkpoint(tmp_path, num_nextn_predict_layers=1)
    pool: Pool = {}
    first = filled(tmp_path, "attn_tp=2", 0, pool)
    same, other, whole = (
        filled(tmp_path, mesh, rank, pool) for mesh, rank in (("attn_tp=2", 0), ("attn_tp=2", 1), ("", 0))
    )
    assert same.embed.weight.data_ptr() == first.embed.weight.data_ptr()
    assert len({model.embed.weight.data_ptr() for model in (first, other, whole)}) == 3
    assert len(pool) == 6
    half = filled(tmp_path, "attn_tp=2", 0, pool, torch.bfloat16)
    assert half.embed.weight.data_ptr() != first.embed.weight.data_ptr()


def filled(folder: Path, mesh: str, rank: int, pool: Pool, dtype: torch.dtype = torch.float32) -> Any:
    config, place = read_config(folder), Mesh.parse(mesh, rank=rank)
    model = build(config, place, dtype=dtype, device=CPU, positions=8).model
    options: dict[str, Any] = {"device": CPU, "progress": None, "dtype": dtype, "pool": pool}
    with torch.no_grad():
        load_weights(model, CheckpointFolder(folder), table_of(config), **options)
    return model


def test_dummies_share_nothing(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, num_nextn_predict_layers=1)
    target = load_model(tmp_path)
    with pytest.raises(ConfigError, match="load_format = 'dummy' reads no tensors to share; leave share out"):
        load_model(tmp_path, draft="mtp", load_format="dummy", share=target)
