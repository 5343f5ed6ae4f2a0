"""Qwen 3.5's layer for multi-token prediction, against transformers' decoder layer on whole sequences.

As vLLM and SGLang have it: x = fc [norm(embedding), norm(state)]; x = layer(x), always full attention; logits =
head(norm(x)). The first states are the target's after its final norm, the next step's are those that the head read.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from ts_modeling import CheckpointError, ConfigError, Mesh, load_model
from ts_modeling.registry import build, config_from, table_of
from ts_modeling.testing import Sequences, assert_close, new_cache, tiny_config, write_tiny

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("qwen3_5", {}),
    "dense-tied-one-key": ("qwen3_5", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "mixture": ("qwen3_5_moe", {}),
    "mixture-single": ("qwen3_5_moe", {"num_attention_heads": 4}),
}
PROMPT = torch.randint(320, (17,), generator=torch.Generator().manual_seed(9)).tolist()


class Reference(nn.Module):
    """The layer with random weights, for whole sequences."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        config, inner = theirs.config, theirs.model
        hidden, norm = config.hidden_size, type(inner.norm)
        self.pre_fc_norm_embedding, self.pre_fc_norm_hidden, self.norm = (
            norm(hidden, config.rms_norm_eps) for _ in "ehn"
        )
        self.fc = nn.Linear(2 * hidden, hidden, bias=False)
        self.layers = nn.ModuleList([type(inner.layers[2])(config, 2)])  # the one with full attention
        self.shared = (inner.embed_tokens, theirs.lm_head, inner.rotary_emb)
        generator = torch.Generator().manual_seed(3)
        for value in self.parameters():
            random = torch.randn(value.shape, generator=generator) * (
                0.1 if value.dim() == 1 else value.shape[-1] ** -0.5
            )
            value.data = random.bfloat16().float()

    def forward(self, tokens: list[int], states_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, and the states before them [T, D] -> logits [T, V] and the states [T, D]."""
        (embed, head, rotary), count = self.shared, len(tokens)
        embedded = self.pre_fc_norm_embedding(embed(torch.tensor(tokens)))
        x = self.fc(torch.cat((embedded, self.pre_fc_norm_hidden(states_TD)), dim=-1))[None]
        mask = torch.full((count, count), -torch.inf).triu(1)[None, None]
        places = rotary(x, torch.arange(count)[None])
        states = self.norm(self.layers[0](x, position_embeddings=places, attention_mask=mask)[0])
        return head(states), states


def write(folder: Path, model: str, changes: dict[str, Any], *, single: bool = False) -> tuple[Reference, Any]:
    """A target and its layer in ``folder``; ``single``: experts with tensors of their own."""
    raw = tiny_config(model, mtp_num_hidden_layers=1, mtp_use_dedicated_embeddings=False, **changes)
    theirs = write_tiny(folder, raw)
    with torch.no_grad():
        reference = Reference(theirs).eval()
    own = {f"mtp.{n}": t.bfloat16() for n, t in reference.state_dict().items() if not n.startswith("shared")}
    for name in [n for n in own if single and "experts.gate_up_proj" in n]:
        stem, down = name.removesuffix(".gate_up_proj"), own.pop(name.replace("gate_up", "down"))
        for expert, (first, last) in enumerate(zip(own.pop(name), down, strict=True)):
            parts = zip(("gate", "up", "down"), (*first.chunk(2), last), strict=True)
            own |= {f"{stem}.{expert}.{part}_proj.weight": t.contiguous() for part, t in parts}
    save_file({**load_file(folder / "model.safetensors"), **own}, folder / "model.safetensors")
    return reference, theirs


@pytest.mark.parametrize("case", CASES)
def test_prompts_and_draft_steps_equal_the_reference(case: str, tmp_path: Path) -> None:
    model, changes = CASES[case]
    reference, theirs = write(tmp_path, model, changes, single="single" in case)
    target, draft = (
        load_model(tmp_path, dtype="float32", final_states=True),
        load_model(tmp_path, dtype="float32", draft="mtp"),
    )
    rows, ahead = Sequences(3, 32, seed=4), Sequences(3, 32, seed=6)
    logits, states = target.forward(rows.batch(prefills=[(1, PROMPT)], every=False), new_cache(target, rows))
    tokens = [*PROMPT[1:], int(logits[-1].argmax())]
    with torch.no_grad():
        given = theirs(torch.tensor(PROMPT)[None], output_hidden_states=True).hidden_states[-1][0]
        assert_close(states, given)
        cache, parts, after = new_cache(draft, ahead), [], torch.empty(0)
        for part in (slice(0, 6), slice(6, 7), slice(7, 17)):
            batch = ahead.batch(prefills=[(2, tokens[part])])
            batch.features = states[part]
            drafted, after = draft.forward(batch, cache)
            parts.append(drafted)
        expected, own = reference(tokens, given)
        assert_close(torch.cat(parts), expected)
        for _ in range(2):
            given, tokens = torch.cat((given, own[-1:])), [*tokens, int(expected[-1].argmax())]
            batch = ahead.batch(decodes=[(2, tokens[-1:])], every=False)
            batch.features = after[-1:]
            drafted, after = draft.forward(batch, cache)
            expected, own = reference(tokens, given)
            assert_close(drafted, expected[-1:])
            assert_close(after, own[-1:])
    (group,) = draft.kv_spec.groups
    assert (group.kind, group.layers) == ("full", (0,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "mtp_num_hidden_layers = None: only a checkpoint with 1"),
        ({"mtp_num_hidden_layers": 2}, "mtp_num_hidden_layers = 2: only"),
        ({"mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": True}, "mtp_use_dedicated_embeddings = True"),
    ],
)
def test_what_has_no_draft_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from(tiny_config("qwen3_5", **changes), draft="mtp")
    assert config_from(tiny_config("qwen3_5", **changes))


def test_a_layer_that_lacks_a_tensor_is_named(tmp_path: Path) -> None:
    write(tmp_path, "qwen3_5", {})
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["mtp.pre_fc_norm_hidden.weight"]
    save_file(tensors | {"mtp.layers.1.x": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"mtp\.pre_fc_norm_hidden\.weight missing; mtp\.layers\.1\.x unknown"):
        load_model(tmp_path, draft="mtp")
    load_model(tmp_path)


def test_names_of_a_multimodal_checkpoint() -> None:
    """The layer's own do not begin with ``model.language_model.``, what is shared does."""
    raw = tiny_config("qwen3_5_moe", mtp_num_hidden_layers=1, num_attention_heads=4)
    outer = {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "text_config": json.loads(json.dumps(raw))}
    config = config_from(outer, draft="mtp")
    names = {entry.name for entry in table_of(config).chosen(()).entries}
    assert {
        "model.language_model.embed_tokens.weight",
        "lm_head.weight",
        "mtp.layers.0.self_attn.q_proj.weight",
    } < names
    assert "mtp.layers.0.mlp.experts.gate_up_proj" in names
    mesh = Mesh(2, {"attn_tp": 2, "moe_ep": 2})
    assert build(config, mesh, dtype=torch.bfloat16, device=torch.device("cpu"), positions=8).plans.programs
