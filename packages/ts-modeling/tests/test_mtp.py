"""Layers for multi-token prediction, against plain torch on whole sequences.

The reference is section 2.2 of arXiv 2412.19437 with transformers' decoder layer: x = M [norm(embedding), norm(state)];
x = layer(x); logits = head(norm(x)). The first states are the target's after its final norm, the next step's are those
that this head read (as SGLang has it).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek
from ts_modeling import CheckpointError, ConfigError, LoadedModel, Mesh, load_model
from ts_modeling.compiler.program import collective_of
from ts_modeling.registry import build, config_from, kv_spec
from ts_modeling.testing import (
    Sequences,
    assert_close,
    dequantized,
    new_cache,
    oracle,
    text_config,
    tiny_config,
    write_checkpoint,
)

BLOCK: dict[str, Any] = {
    "quantization": "fp8-block",
    "hidden_size": 256,
    "intermediate_size": 384,
    "moe_intermediate_size": 128,
}
BLOCK |= {"q_lora_rank": 128, "kv_lora_rank": 128, "v_head_dim": 32}
"""What blocks of 128 divide."""
CASES: dict[str, dict[str, Any]] = {
    "int4": {},
    "plain": {"int4": False, "nested": False, "rope_scaling": None},
    "groups": {"int4": False, "n_routed_experts": 12, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 5},
    "three-heads": {"int4": False, "num_attention_heads": 3, "q_lora_rank": None, "first_k_dense_replace": 0},
    "all-dense": {"int4": False, "first_k_dense_replace": 4, "norm_topk_prob": False},
    "fp8-block": {**BLOCK, "nested": False, "n_group": 2, "topk_group": 1},
}
LOSSY = {"fp8-block": ("kv_b_proj",)}
"""What no kernel of a CPU reads quantized, and is rounded to bf16."""


class Reference(nn.Module):
    """The layer, for whole sequences."""

    def __init__(self, folder: Path, *, copies: bool = False, bf16: tuple[str, ...] = ()) -> None:
        super().__init__()
        raw = json.loads((folder / "config.json").read_text())
        text = {n: v for n, v in raw.get("text_config", raw).items() if n != "quantization_config"}
        kind: Any = DeepseekV3Config
        config = kind(**text, attn_implementation="eager")
        hidden, index = config.hidden_size, config.num_hidden_layers
        norm: Any = deepseek.DeepseekV3RMSNorm
        self.enorm, self.hnorm, self.norm = (norm(hidden, config.rms_norm_eps) for _ in range(3))
        self.eh_proj = nn.Linear(2 * hidden, hidden, bias=False)
        self.layer: Any = deepseek.DeepseekV3DecoderLayer(config, index)
        rotary: Any = deepseek.DeepseekV3RotaryEmbedding
        self.rotary = rotary(config)
        stored = dequantized(folder)
        stored |= {n: t.bfloat16().float() for n, t in stored.items() if any(part in n for part in bf16)}
        self._fill(stored, f"model.layers.{index}.", copies)

    def _fill(self, stored: dict[str, Tensor], prefix: str, copies: bool) -> None:
        own = {n.removeprefix(prefix): t for n, t in stored.items() if n.startswith(prefix)}
        self.embed = own.pop("embed_tokens.weight") if copies else stored["model.embed_tokens.weight"]
        self.head = own.pop("shared_head.head.weight") if copies else stored["lm_head.weight"]
        for name, module in (("enorm", self.enorm), ("hnorm", self.hnorm), ("shared_head.norm", self.norm)):
            module.weight.data = own.pop(f"{name}.weight")
        self.eh_proj.weight.data = own.pop("eh_proj.weight")
        for stack, parts in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
            if f"mlp.experts.{stack}" in self.layer.state_dict():
                count = len(self.layer.mlp.experts.down_proj)
                rows = [[own.pop(f"mlp.experts.{e}.{p}.weight") for p in parts] for e in range(count)]
                own[f"mlp.experts.{stack}"] = torch.stack([torch.cat(row) for row in rows])
        self.layer.float().load_state_dict(own, strict=True)

    def forward(self, tokens: list[int], states_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, and the states before them [T, D] -> logits [T, V] and the states [T, D]."""
        count = len(tokens)
        embedded = self.embed[torch.tensor(tokens)]
        x = self.eh_proj(torch.cat((self.enorm(embedded), self.hnorm(states_TD)), dim=-1))[None]
        mask = torch.full((count, count), -torch.inf).triu(1)[None, None]
        places = self.rotary(x, torch.arange(count)[None])
        states = self.norm(self.layer(x, position_embeddings=places, attention_mask=mask)[0])
        return states @ self.head.T, states


@dataclass
class Case:
    folder: Path
    target: LoadedModel
    draft: LoadedModel
    reference: Reference
    theirs: Any
    """transformers' target."""
    tokens: list[int]

    def expected(self, steps: int) -> list[tuple[Tensor, Tensor]]:
        """Logits and last states: of the prompt and the token after it, and of ``steps`` drafted ones."""
        with torch.no_grad():
            given = self.theirs(torch.tensor(self.tokens)[None], output_hidden_states=True)
            states = given.hidden_states[-1][0]  # after the final norm, as transformers has it
            tokens = [*self.tokens[1:], int(given.logits[0, -1].argmax())]
            out = []
            for step in range(steps + 1):
                logits, after = self.reference(tokens, states)
                out.append((logits if step == 0 else logits[-1:], after[-1:]))
                states, tokens = torch.cat((states, after[-1:])), [*tokens, int(logits[-1].argmax())]
        return out


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("mtp")
    write_checkpoint(folder, num_nextn_predict_layers=1, **CASES[request.param])
    target = load_model(folder, dtype="float32", final_states=True)
    draft = load_model(folder, dtype="float32", draft="mtp")
    tokens = torch.randint(320, (19,), generator=torch.Generator().manual_seed(9)).tolist()
    bf16 = LOSSY.get(request.param, ())
    reference, theirs = Reference(folder, bf16=bf16).eval(), oracle(folder, bf16=bf16)
    return Case(folder, target, draft, reference, theirs, tokens)


@pytest.mark.parametrize("chunks", [[19], [5, 1, 13]], ids=str)
def test_prompts_and_draft_steps_equal_the_reference(case: Case, chunks: list[int]) -> None:
    """The target's own states go to the draft, so both are held to the reference at once."""
    (every, last), *later = case.expected(3)
    rows, ahead = Sequences(3, 32, seed=4), Sequences(3, 32, seed=6)
    cache, own = new_cache(case.target, rows), new_cache(case.draft, ahead)
    parts, states, start = list[Tensor](), torch.empty(0), 0
    for size in chunks:
        prompt = case.tokens[start : start + size]
        logits, given = case.target.forward(rows.batch(prefills=[(1, prompt)], every=False), cache)
        start += size
        following = case.tokens[start] if start < 19 else int(logits[-1].argmax())
        batch = ahead.batch(prefills=[(1, [*prompt[1:], following])])
        batch.features = given
        before = given.clone()
        drafted, states = case.draft.forward(batch, own)
        assert torch.equal(given, before)
        parts.append(drafted)
    assert_close(torch.cat(parts), every)
    assert_close(states[-1:], last)
    token, states = int(every[-1].argmax()), states[-1:]
    for expected, after in later:
        batch = ahead.batch(decodes=[(1, [token])], every=False)
        batch.features = states
        drafted, states = case.draft.forward(batch, own)
        assert_close(drafted, expected)
        assert_close(states, after)
        token = int(expected[-1].argmax())


def test_several_sequences_draft_together(case: Case) -> None:
    (every, _), (later, _) = case.expected(1)
    with torch.no_grad():
        given = case.theirs(torch.tensor(case.tokens)[None], output_hidden_states=True)
    states, tokens = given.hidden_states[-1][0], [*case.tokens[1:], int(given.logits[0, -1].argmax())]
    rows = Sequences(3, 32, seed=4)
    cache = new_cache(case.draft, rows)
    batch = rows.batch(prefills=[(2, tokens), (0, tokens[:7])], every=False)
    batch.features = torch.cat((states, states[:7]))
    ours, after = case.draft.forward(batch, cache)
    assert_close(ours, every[[18, 6]])
    batch = rows.batch(decodes=[(2, [int(every[-1].argmax())])], prefills=[(0, tokens[7:12])], every=False)
    batch.features = torch.cat((after[:1], states[7:12]))
    both, _ = case.draft.forward(batch, cache)
    assert_close(both[:1], later)
    assert_close(both[1:], every[11:12])


def test_final_states_stand_after_those_of_layers(case: Case) -> None:
    model = load_model(case.folder, dtype="float32", feature_layers=(0, 2), final_states=True)
    rows = Sequences(1, 32)
    logits, features = model.forward(rows.batch(prefills=[(0, case.tokens)], every=False), new_cache(model, rows))
    with torch.no_grad():
        given = case.theirs(torch.tensor(case.tokens)[None], output_hidden_states=True)
        before_norm: list[Tensor] = []
        handle = case.theirs.model.norm.register_forward_pre_hook(lambda _, args: before_norm.append(args[0]))
        case.theirs(torch.tensor(case.tokens)[None])
        handle.remove()
    parts = (given.hidden_states[1][0], before_norm[0][0], given.hidden_states[-1][0])
    assert_close(features, torch.cat(parts, dim=1))
    assert_close(logits, given.logits[0, -1:])


def test_the_target_is_not_changed_by_its_draft(case: Case, tmp_path: Path) -> None:
    """The same code and weights' names as where the checkpoint has no such layer."""
    raw = json.loads((case.folder / "config.json").read_text())
    raw.get("text_config", raw)["num_nextn_predict_layers"] = 0
    stored = load_file(case.folder / "model.safetensors")
    save_file({n: t for n, t in stored.items() if ".layers.3." not in n}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with_layer, without = load_model(case.folder, dtype="float32"), load_model(tmp_path, dtype="float32")
    assert with_layer.code == without.code
    assert with_layer.kv_spec == without.kv_spec
    logits = []
    for model in (with_layer, without):
        rows = Sequences(1, 32)
        logits.append(model.forward(rows.batch(prefills=[(0, case.tokens)]), new_cache(model, rows)))
    assert torch.equal(*logits)


@pytest.mark.parametrize("prefix", ["", "language_model."])
def test_copies_of_embedding_and_head_are_read(tmp_path: Path, prefix: str) -> None:
    """As DeepSeek's files have them; made different here, so that it shows whose are used."""
    write_checkpoint(tmp_path, num_nextn_predict_layers=1, nested=bool(prefix))
    tensors = load_file(tmp_path / "model.safetensors")
    for copy, original in (("embed_tokens", "model.embed_tokens"), ("shared_head.head", "lm_head")):
        tensors[f"{prefix}model.layers.3.{copy}.weight"] = tensors[f"{prefix}{original}.weight"].flip(0).contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    reference = Reference(tmp_path, copies=True)
    draft, rows = load_model(tmp_path, dtype="float32", draft="mtp"), Sequences(1, 8)
    batch = rows.batch(prefills=[(0, [5, 9, 300, 7])])
    batch.features = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, _ = reference([5, 9, 300, 7], batch.features)
    assert_close(draft.forward(batch, new_cache(draft, rows))[0], expected)
    assert load_model(tmp_path).config.num_hidden_layers == 3


def test_one_layer_is_cached(case: Case) -> None:
    config: Any = case.draft.config
    (group,) = case.draft.kv_spec.groups
    assert (group.kind, group.layers) == ("full", (0,))
    assert case.draft.kv_spec.bytes_per_token == (config.kv_lora_rank + config.qk_rope_head_dim) * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {n: v for n, v in t.items() if "eh_proj" not in n}, r"layers\.3\.eh_proj\.weight missing"),
        (lambda t: t | {"model.layers.3.gate.weight": torch.ones(2)}, r"layers\.3\.gate\.weight unknown"),
        (lambda t: t | {"model.layers.4.enorm.weight": torch.ones(2)}, r"layers\.4\.enorm\.weight unknown"),
        (
            lambda t: t | {"model.layers.3.eh_proj.weight": torch.ones(64, 64)},
            r"eh_proj\.weight has shape \[64, 64\], config\.json asks for \[64, 128\]",
        ),
        (
            lambda t: t | {"model.layers.3.embed_tokens.weight": torch.ones(3, 64)},
            r"layers\.3\.embed_tokens\.weight has shape \[3, 64\]",
        ),
    ],
)
def test_wrong_checkpoints_are_refused(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    write_checkpoint(tmp_path, num_nextn_predict_layers=1, int4=False, nested=False)
    save_file(change(load_file(tmp_path / "model.safetensors")), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path, draft="mtp")


@pytest.mark.parametrize(
    ("raw", "options", "message"),
    [
        (text_config(), {}, "num_nextn_predict_layers = 0: only a checkpoint with 1 has a draft 'mtp'"),
        (text_config(num_nextn_predict_layers=2), {}, "num_nextn_predict_layers = 2"),
        (text_config(num_nextn_predict_layers=None), {}, "num_nextn_predict_layers = None"),
        (tiny_config("llama"), {}, r"\['LlamaForCausalLM'\] has none here; known are .*DeepseekV3ForCausalLM"),
        (text_config(num_nextn_predict_layers=1), {"draft": "eagle"}, "draft = 'eagle'; only 'mtp' lies in"),
        (text_config(num_nextn_predict_layers=1), {"vision": True}, "draft = 'mtp' has no vision tower"),
        (text_config(num_nextn_predict_layers=1), {"target": "."}, "draft = 'mtp' lies in its target's own folder"),
        (text_config(num_nextn_predict_layers=1), {"feature_layers": (0,)}, "KimiK25MTP has none to give"),
        (text_config(num_nextn_predict_layers=1), {"final_states": True}, "final_states: KimiK25MTP has none to give"),
    ],
)
def test_what_has_no_draft_is_refused(
    tmp_path: Path, raw: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=message):
        load_model(tmp_path, **{"draft": "mtp", "load_format": "dummy", **options})


def test_deepseeks_published_sizes_compile() -> None:
    sizes = {"hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048, "vocab_size": 129280}
    latent = {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64}
    routing = {"n_routed_experts": 256, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4}
    layers = {"num_hidden_layers": 61, "first_k_dense_replace": 3, "num_nextn_predict_layers": 1, "v_head_dim": 128}
    raw = text_config(quantization="fp8-block", num_attention_heads=128, **sizes, **latent, **routing, **layers)
    config = config_from(raw, draft="mtp")
    mesh = Mesh(8, {"attn_tp": 8, "moe_ep": 8})
    program = build(config, mesh, dtype=torch.bfloat16, device=torch.device("cpu"), positions=8).plans.at(1)
    sent = [c.kind for c in map(collective_of, program.operations) if c]
    assert sent == ["all_reduce"] * 3 + ["all_gather"]
    assert kv_spec(config, mesh, dtype=torch.bfloat16).bytes_per_token == 576 * 2
