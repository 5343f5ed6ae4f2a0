"""``ts-entry --model FOLDER`` on tiny checkpoints of models besides Kimi: greedy text equals transformers'."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from ts_entry.catalog import read_catalog
from ts_entry.resolve import EXTRA_ARCHITECTURES
from ts_modeling.registry import ARCHITECTURES
from ts_modeling.testing import MODELS, oracle_logits, tiny_config, write_tiny

WORDS = range(33, 127)
"""Ids of printable characters, the only ones that the models say."""
PROMPT = "def add(a, b): return"
ANSWER = 8


def write(folder: Path, name: str) -> Any:
    """A checkpoint with a tokenizer of the 256 bytes; gives transformers' model of it."""
    reference = write_tiny(folder, tiny_config(name))
    said = torch.zeros(320, 1)
    said[list(WORDS)] = 1
    with torch.no_grad():
        reference.lm_head.weight.mul_(said)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = reference.lm_head.weight.detach().bfloat16()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    alphabet = {ord(c): c for c in sorted(pre_tokenizers.ByteLevel.alphabet()) if ord(c) < 256}
    spare = [c for c in sorted(pre_tokenizers.ByteLevel.alphabet()) if ord(c) >= 256]
    vocabulary = {alphabet[i] if i in alphabet else spare.pop(): i for i in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"256": {"content": "[EOS]", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": named, "eos_token": "[EOS]"}))
    return reference


def greedy(reference: Any, ids: list[int]) -> str:
    """transformers' answer of ``ANSWER`` characters."""
    tokens = list(ids)
    for _ in range(ANSWER):
        tokens.append(int(oracle_logits(reference, tokens)[-1].argmax()))
    assert all(token in WORDS for token in tokens[len(ids) :])
    return bytes(tokens[len(ids) :]).decode()


@pytest.mark.parametrize(
    "name",
    ["qwen3", "qwen3_5", *(pytest.param(n, marks=pytest.mark.nightly) for n in ("gpt_oss", "llama", "qwen3_moe"))],
)
def test_a_folder_is_served(launch: Callable[..., Any], tmp_path: Path, name: str) -> None:
    reference = write(tmp_path, name)
    ids = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(PROMPT).ids
    server = launch("--dtype", "float32", model=str(tmp_path))
    assert server.url
    with server.client as client:
        model = client.models.list().data[0].id
        answer = client.completions.create(model=model, prompt=ids, max_tokens=ANSWER, temperature=0)
    assert answer.choices[0].text == greedy(reference, ids)
    server.end()


def test_the_entry_takes_the_models_that_a_worker_serves() -> None:
    taken = EXTRA_ARCHITECTURES | {name for entry in read_catalog().values() for name in entry.architectures}
    assert {name for raw in MODELS.values() for name in raw["architectures"]} <= taken <= ARCHITECTURES.keys()
