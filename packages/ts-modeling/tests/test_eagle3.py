"""EAGLE3's draft heads and the features that targets give, against plain torch on whole sequences.

The reference follows the published equations (SafeAILab/EAGLE ``cnets.py``, vLLM ``llama_eagle3.py`` and
``deepseek_eagle3.py``) with transformers' attention, norms and MLP, whose first projections take two hidden widths:
residual = fc(features); residual += attention([norm(embedding), norm(residual)]); residual += mlp(norm(residual));
logits = head(norm(residual)); the next step's features are that residual, not normed, and pass fc by.
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
from transformers import DeepseekV3Config, LlamaConfig
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek
from transformers.models.llama import modeling_llama as llama
from ts_modeling import CheckpointError, ConfigError, ForwardBatch, LoadedModel, Mesh, load_model
from ts_modeling.compiler.program import collective_of
from ts_modeling.registry import build, config_from, kv_spec
from ts_modeling.testing import (
    FORMATS,
    Sequences,
    assert_close,
    new_cache,
    oracle,
    tiny_config,
    write_checkpoint,
    write_tiny,
)
from ts_modeling.testing.formats import meaning

HIDDEN, TOKENS = 72, 320
COMMON: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 100,
    "num_attention_heads": 6,
    "num_hidden_layers": 1,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 64,
    "vocab_size": TOKENS,
    "draft_vocab_size": 128,
    "tie_word_embeddings": False,
}
LLAMA = {**COMMON, "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama"}
LLAMA |= {"num_key_value_heads": 2, "head_dim": 12}
MLA = {**COMMON, "architectures": ["Eagle3DeepseekV2ForCausalLM"], "model_type": "deepseek_v3"}
MLA |= {"q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 20, "qk_rope_head_dim": 8, "v_head_dim": 16}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 0.7}
ONE_KEY = {"hidden_size": 80, "num_attention_heads": 5, "num_key_value_heads": 1}
CASES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama-authors": {**LLAMA, "architectures": ["LlamaForCausalLM"], **ONE_KEY},
    "llama-every-token": {**LLAMA, "draft_vocab_size": TOKENS, "norm_before_residual": True, "target_hidden_size": 40},
    "llama-two-layers": {**LLAMA, "eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 3]}, "rms_norm_eps": 1e-3},
    "mla": MLA,
    "mla-yarn": {**MLA, "rope_scaling": YARN, "num_attention_heads": 3, "target_hidden_size": 88},
    "mla-plain-queries": {**MLA, "q_lora_rank": None, "draft_vocab_size": ..., "norm_before_residual": True},
}


class Reference(nn.Module):
    """One head, for whole sequences."""

    def __init__(self, raw: dict[str, Any]) -> None:
        super().__init__()
        known = {k: v for k, v in raw.items() if k not in ("architectures", "model_type", "eagle_config")}
        layers = raw.get("eagle_config", {}).get("eagle_aux_hidden_state_layer_ids", (1, 2, 3))
        self.normed_residual = raw.get("norm_before_residual", False)
        latent = "kv_lora_rank" in raw
        module: Any = deepseek if latent else llama
        kind: Any = DeepseekV3Config if latent else LlamaConfig
        if latent:
            known |= {"num_key_value_heads": raw["num_attention_heads"]}
        config = kind(**known, attn_implementation="eager")
        norm: Any = deepseek.DeepseekV3RMSNorm if latent else llama.LlamaRMSNorm
        hidden, eps = raw["hidden_size"], raw["rms_norm_eps"]
        columns = raw.get("draft_vocab_size", raw["vocab_size"])
        self.embed_tokens = nn.Embedding(raw["vocab_size"], hidden)
        self.fc = nn.Linear(len(layers) * raw.get("target_hidden_size", hidden), hidden, bias=False)
        self.midlayer = nn.Module()
        self.midlayer.input_layernorm, self.midlayer.hidden_norm = norm(hidden, eps), norm(hidden, eps)
        self.midlayer.post_attention_layernorm = norm(hidden, eps)
        self.midlayer.self_attn = widened(module, config, latent, hidden, eps)
        self.midlayer.mlp = (deepseek.DeepseekV3MLP if latent else llama.LlamaMLP)(config)
        rotary: Any = deepseek.DeepseekV3RotaryEmbedding if latent else llama.LlamaRotaryEmbedding
        self.rotary = rotary(config)
        self.norm, self.lm_head = norm(hidden, eps), nn.Linear(hidden, columns, bias=False)

    def forward(self, tokens: list[int], hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, and fused or earlier hidden states [T, D] -> logits [T, W] and the hidden states [T, D]."""
        layer: Any = self.midlayer
        count = len(tokens)
        normed = layer.hidden_norm(hidden_TD)
        residual = normed if self.normed_residual else hidden_TD
        x = torch.cat((layer.input_layernorm(self.embed_tokens(torch.tensor(tokens))), normed), dim=-1)
        mask = torch.full((count, count), -torch.inf).triu(1)[None, None]
        places = self.rotary(x[None], torch.arange(count)[None])
        residual = residual + layer.self_attn(x[None], position_embeddings=places, attention_mask=mask)[0][0]
        residual = residual + layer.mlp(layer.post_attention_layernorm(residual))
        return self.lm_head(self.norm(residual)), residual


def widened(module: Any, config: Any, latent: bool, hidden: int, eps: float) -> Any:
    """transformers' attention whose first projections take two hidden widths."""
    attention: Any = (module.DeepseekV3Attention if latent else module.LlamaAttention)(config, 0)
    names = ("q_proj", "q_a_proj", "kv_a_proj_with_mqa") if latent else ("q_proj", "k_proj", "v_proj")
    for name in names:
        before = getattr(attention, name, None)
        if before is not None:
            setattr(attention, name, nn.Linear(2 * hidden, before.out_features, bias=False))
    for name in ("q_a_layernorm", "kv_a_layernorm"):
        if getattr(attention, name, None) is not None:
            getattr(attention, name).variance_epsilon = eps
    return attention


def write_draft(
    folder: Path, raw: dict[str, Any], *, name: str = "midlayer", leave_out: tuple[str, ...] = ()
) -> Reference:
    """A random head in ``folder``, and the reference with its weights."""
    reference = Reference(raw).eval()
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for key, value in reference.named_parameters():
        random = torch.randn(value.shape, generator=generator)
        random = 1 + 0.1 * random if value.dim() == 1 else random * value.shape[-1] ** -0.5
        tensors[key.replace("midlayer", name)] = random.bfloat16()
        value.data.copy_(random.bfloat16().float())
    columns = raw.get("draft_vocab_size", raw["vocab_size"])
    if columns < raw["vocab_size"]:
        ids = torch.randperm(raw["vocab_size"], generator=generator)[:columns].sort().values
        tensors |= {"d2t": ids - torch.arange(columns), "t2d": torch.isin(torch.arange(raw["vocab_size"]), ids)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: t for k, t in tensors.items() if k not in leave_out}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(raw))
    return reference


@dataclass
class Case:
    model: LoadedModel
    reference: Reference
    tokens: list[int]
    features: Tensor

    def expected(self, steps: int) -> list[tuple[Tensor, Tensor]]:
        """Logits and hidden states of the last token: of the prompt, and of ``steps`` drafted after it."""
        with torch.no_grad():
            hidden, tokens = self.reference.fc(self.features), list(self.tokens)
            out = []
            for step in range(steps + 1):
                logits, after = self.reference(tokens, hidden)
                out.append((logits if step == 0 else logits[-1:], after[-1:]))
                hidden, tokens = torch.cat((hidden, after[-1:])), [*tokens, drafted(logits[-1])]
        return out


def drafted(logits: Tensor) -> int:
    return int(logits.argmax())


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    raw = {name: value for name, value in CASES[request.param].items() if value is not ...}
    folder = tmp_path_factory.mktemp("draft")
    reference = write_draft(folder, raw, name="midlayer" if "mla" in request.param else "layers.0")
    generator = torch.Generator().manual_seed(9)
    tokens = torch.randint(TOKENS, (19,), generator=generator).tolist()
    features = torch.randn(19, reference.fc.in_features, generator=generator)
    return Case(load_model(folder, dtype="float32"), reference, tokens, features)


def call(case: Case, batch: ForwardBatch, cache: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    batch.features = features
    logits, hidden = case.model.forward(batch, cache)
    return logits, hidden


@pytest.mark.parametrize("chunks", [[19], [5, 1, 13]], ids=str)
def test_prompts_and_draft_steps_equal_the_reference(case: Case, chunks: list[int]) -> None:
    (every, last), *later = case.expected(3)
    rows = Sequences(3, 32, seed=4)
    cache, start, parts = new_cache(case.model, rows), 0, []
    hidden = torch.empty(0)
    for size in chunks:
        part = slice(start, start + size)
        batch = rows.batch(prefills=[(1, case.tokens[part])])
        logits, hidden = call(case, batch, cache, case.features[part])
        parts.append(logits)
        start += size
    assert_close(torch.cat(parts), every)
    assert_close(hidden[-1:], last)
    tokens, hidden = drafted(every[-1]), hidden[-1:]
    for logits, after in later:
        ours, hidden = call(case, rows.batch(decodes=[(1, [tokens])], every=False), cache, hidden)
        assert_close(ours, logits)
        assert_close(hidden, after)
        tokens = drafted(logits[-1])


def test_several_sequences_draft_together(case: Case) -> None:
    (every, last), (logits, after), *_ = case.expected(1)
    rows = Sequences(3, 32, seed=4)
    cache = new_cache(case.model, rows)
    short = slice(0, 7)
    batch = rows.batch(prefills=[(2, case.tokens), (0, case.tokens[short])], every=False)
    ours, hidden = call(case, batch, cache, torch.cat((case.features, case.features[short])))
    assert_close(ours, every[[18, 6]])
    assert_close(hidden[:1], last)
    token = drafted(every[-1])
    given = hidden.flip(0)
    before = given.clone()
    both, _ = call(case, rows.batch(decodes=[(0, [3]), (2, [token])], every=False), cache, given)
    assert_close(both[1:], logits)
    assert torch.equal(given, before)
    assert after.shape == hidden[:1].shape


@pytest.mark.parametrize("form", ["llama", "mla"])
def test_a_quantized_layer_is_read_as_stored(tmp_path: Path, form: str) -> None:
    """INT4 in groups of 32; the up-projection of latents is rounded to bf16, as no kernel reads it quantized."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    raw = {**LLAMA, **sizes, "head_dim": 16} if form == "llama" else {**MLA, **sizes, "q_lora_rank": 64}
    reference = write_draft(tmp_path, raw)
    tensors, generator = load_file(tmp_path / "model.safetensors"), torch.Generator().manual_seed(6)
    for name, weight in reference.named_parameters():
        if name.endswith("_proj.weight") or name.endswith("_with_mqa.weight"):
            made = FORMATS["int4-32"].make(*weight.shape, generator)
            means = meaning(made)
            weight.data.copy_(means.bfloat16() if "kv_b" in name else means)
            del tensors[name]
            tensors |= {f"{name.removesuffix('.weight')}.{suffix}": value for suffix, value in made.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    quantization = {**FORMATS["int4-32"].config, "ignore": ["fc", "lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps({**raw, "quantization_config": quantization}))
    features = torch.randn(4, 192, generator=generator)
    case = Case(load_model(tmp_path, dtype="float32"), reference, [5, 9, 300, 7], features)
    rows = Sequences(1, 8)
    logits, _ = call(case, rows.batch(prefills=[(0, case.tokens)]), new_cache(case.model, rows), features)
    assert_close(logits, case.expected(0)[0][0])


def test_columns_are_tokens_of_the_target(case: Case, tmp_path: Path) -> None:
    ids = case.model.column_ids
    if case.reference.lm_head.out_features == TOKENS:
        assert ids is None
        return
    assert ids is not None
    stored = write_draft(tmp_path, LLAMA)
    assert stored is not None
    known = load_file(tmp_path / "model.safetensors")["t2d"].nonzero()[:, 0]
    assert torch.equal(load_model(tmp_path).column_ids, known)  # type: ignore[arg-type]


TARGETS: dict[str, Callable[[Path], Any]] = {
    "llama": lambda folder: write_tiny(folder, tiny_config("llama", num_hidden_layers=7)),
    "qwen3_5_moe": lambda folder: write_tiny(folder, tiny_config("qwen3_5_moe", num_hidden_layers=7)),
    "kimi_k25": lambda folder: (write_checkpoint(folder, num_hidden_layers=7), oracle(folder))[1],
}


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("target")
    return folder, TARGETS[request.param](folder)


def test_features_are_the_hidden_states_of_transformers(target: tuple[Path, Any]) -> None:
    folder, reference = target
    tokens = torch.randint(TOKENS, (23,), generator=torch.Generator().manual_seed(2)).tolist()
    with torch.no_grad():
        given = reference(torch.tensor(tokens)[None], output_hidden_states=True)
    layers = (1, 2, 4)
    model = load_model(folder, dtype="float32", feature_layers=layers)
    rows = Sequences(2, 32)
    cache, got = new_cache(model, rows), []
    for part in (tokens[:9], tokens[9:]):
        logits, features = model.forward(rows.batch(prefills=[(1, part)], every=False), cache)
        got.append(features)
    assert_close(torch.cat(got), torch.cat([given.hidden_states[layer + 1][0] for layer in layers], dim=1))
    assert_close(logits, given.logits[0, -1:])
    plain = load_model(folder, dtype="float32")
    assert "join" not in plain.code


def test_a_head_takes_embedding_and_head_from_its_target(target: tuple[Path, Any], tmp_path: Path) -> None:
    folder, reference = target
    outer = json.loads((folder / "config.json").read_text())
    width = outer.get("text_config", outer)["hidden_size"]
    raw = {**LLAMA, "hidden_size": width, "num_attention_heads": 4, "draft_vocab_size": TOKENS}
    head = write_draft(tmp_path, raw, leave_out=("embed_tokens.weight", "lm_head.weight"))
    head.embed_tokens.weight.data.copy_(reference.get_input_embeddings().weight)
    head.lm_head.weight.data.copy_(reference.get_output_embeddings().weight)
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight missing: .* give target=FOLDER"):
        load_model(tmp_path)
    features = torch.randn(4, 3 * width, generator=torch.Generator().manual_seed(1))
    model = load_model(tmp_path, dtype="float32", target=folder)
    case = Case(model, head, [5, 9, 300, 7], features)
    rows = Sequences(1, 8)
    logits, _ = call(case, rows.batch(prefills=[(0, case.tokens)]), new_cache(model, rows), features)
    assert_close(logits, case.expected(0)[0][0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 2}, "num_hidden_layers = 2 is not supported; only 1 is"),
        ({"fc_norm": True}, "fc_norm = True"),
        ({"norm_output": True}, "norm_output = True"),
        ({"sliding_window": 64}, "sliding_window = 64"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings = True"),
        ({"draft_vocab_size": 321}, "draft_vocab_size = 321 exceeds vocab_size = 320"),
        ({"eagle_aux_hidden_state_layer_ids": [2, 3, 4]}, "eagle_aux_hidden_state_layer_ids = .* not supported"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [3, 1]}}, r"\[3, 1\] must rise"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [-1, 1]}}, "eagle_aux_hidden_state_layer_ids: Expected"),
        ({"norm_before_residual": 1}, "norm_before_residual: Expected `bool`"),
        ({"eagle_config": {"use_aux_hidden_state": False}}, r"eagle_config\.use_aux_hidden_state = False"),
        ({"eagle_config": {"parallel_draft_step": 2}}, r"eagle_config\.parallel_draft_step = 2"),
        ({"eagle_config": []}, ""),
        ({"eagle_config": "x"}, "eagle_config is a str"),
        ({"num_aux_hidden_states": 1}, "hidden_size = 72 is also the width of the features"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
def test_what_heads_do_not_have_is_refused(changes: dict[str, Any], message: str) -> None:
    if not message:
        assert config_from({**LLAMA, **changes})
        return
    for raw in (LLAMA, MLA) if "sliding_window" not in changes else (LLAMA,):
        with pytest.raises(ConfigError, match=message):
            config_from({**raw, **changes})


def test_the_authors_default_layers_are_read() -> None:
    config: Any = config_from(LLAMA)
    assert config.feature_layers(32) == (1, 15, 28)
    assert config.feature_layers(61) == (1, 29, 57)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"d2t": t["d2t"] + 200}, "d2t sends token .* vocab_size = 320"),
        (lambda t: t | {"d2t": -torch.arange(128)}, "d2t sends two tokens of the draft to one"),
        (lambda t: {k: v for k, v in t.items() if k != "d2t"}, "d2t missing"),
        (lambda t: t | {"d2t": t["d2t"].float()}, "d2t is float32, expected int64"),
        (lambda t: t | {"d2t": t["d2t"][:5]}, r"d2t has shape \[5\], config.json asks for \[128\]"),
        (lambda t: t | {"midlayer.mlp.gate.weight": t["norm.weight"] + 1}, r"midlayer\.mlp\.gate\.weight unknown"),
        (lambda t: {k: v for k, v in t.items() if "hidden_norm" not in k}, r"hidden_norm\.weight missing"),
        (lambda t: t | {"fc.weight": t["fc.weight"][:, :-72]}, r"fc\.weight has shape \[72, 144\], .* \[72, 216\]"),
    ],
)
def test_wrong_checkpoints_are_refused(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    write_draft(tmp_path, LLAMA)
    tensors = change(load_file(tmp_path / "model.safetensors"))
    save_file({name: t.contiguous() for name, t in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("draft", "layers", "message"),
    [
        ({"vocab_size": 400}, 6, "vocab_size = 400, its target has 320"),
        ({"target_hidden_size": 40}, 6, "target_hidden_size = 40, its target has 72"),
        ({}, 4, r"features of layers = \[1, 1, 0\], its target has 4 layers"),
    ],
)
def test_a_target_of_another_is_refused(tmp_path: Path, draft: dict[str, Any], layers: int, message: str) -> None:
    write_draft(tmp_path / "draft", {**LLAMA, **draft})
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "config.json").write_text(json.dumps(tiny_config("llama", num_hidden_layers=layers)))
    with pytest.raises(ConfigError, match=message):
        load_model(tmp_path / "draft", target=tmp_path / "target")


@pytest.mark.parametrize("layers", [(2, 1), (0, 3), (-1, 0), (1, 1)])
def test_features_of_layers_that_are_not_there_are_refused(tmp_path: Path, layers: tuple[int, ...]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config("llama")))
    with pytest.raises(ConfigError, match=r"feature_layers = .* give rising numbers from 0 to 2"):
        load_model(tmp_path, load_format="dummy", feature_layers=layers)


def test_a_head_has_no_features_to_give(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MLA))
    with pytest.raises(ConfigError, match="Eagle3MLA has none to give"):
        load_model(tmp_path, load_format="dummy", feature_layers=(0,))


def test_a_head_of_kimis_sizes_compiles() -> None:
    sizes = {"hidden_size": 7168, "intermediate_size": 18432, "num_attention_heads": 64, "vocab_size": 163840}
    latent = {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64}
    raw = {**MLA, **sizes, **latent, "v_head_dim": 128, "draft_vocab_size": 32000, "model_type": "kimi_k2"}
    config = config_from({**raw, "n_routed_experts": 384, "num_key_value_heads": 64})
    mesh = Mesh(8, {"attn_tp": 8})
    program = build(config, mesh, dtype=torch.bfloat16, device=torch.device("cpu"), positions=8).plans.at(1)
    sent = [c.kind for c in map(collective_of, program.operations) if c]
    assert sent == ["all_reduce"] * 3 + ["all_gather"]
    assert kv_spec(config, mesh, dtype=torch.bfloat16).bytes_per_token == 576 * 2
