"""Names of the checkpoint's tensors, and the module and part that each one fills."""

from collections.abc import Iterator

from ...checkpoint.table import Entry, Table, linear_entries
from ...quantization import scheme_of
from .config import KimiK25Config
from .vision import PREFIXES, vision_entries

MATRICES = (("gate_proj", "gate"), ("up_proj", "up"), ("down_proj", "down"))
SKIPPED = (*PREFIXES, "multi_modal_projector.")
"""Parts of the full checkpoint that the text model does not use."""


def checkpoint_table(config: KimiK25Config) -> Table:
    """Every tensor of the text model, and of the vision tower where ``config`` has one; otherwise the tower's tensors
    are known and left alone, as those of multi-token prediction are."""
    prefix = config.prefix
    extra = tuple(f"{prefix}model.layers.{i}." for i in config.extra_layers)
    skipped = extra if config.vision else (*SKIPPED, *extra)
    return Table(tuple(_entries(config, prefix)), skipped=skipped, ignored_suffixes=(".rotary_emb.inv_freq",))


def _entries(config: KimiK25Config, prefix: str) -> Iterator[Entry]:
    yield Entry(f"{prefix}model.embed_tokens.weight", "embed", "weight")
    for layer in range(config.num_hidden_layers):
        yield from layer_entries(config, layer, prefix, f"layers.{layer}")
    yield Entry(f"{prefix}model.norm.weight", "norm", "weight")
    yield from linear_entries(f"{prefix}lm_head", "head", "head", scheme_of(config.quantization, "lm_head"))
    if config.vision:
        yield from vision_entries(config.vision, "vision")


def layer_entries(config: KimiK25Config, layer: int, prefix: str, module: str) -> Iterator[Entry]:
    """The decoder layer of that number, at ``module``."""
    name = f"{prefix}model.layers.{layer}"
    yield Entry(f"{name}.input_layernorm.weight", f"{module}.input_norm", "weight")
    yield from _attention(config, layer, f"{name}.self_attn", f"{module}.attention")
    yield Entry(f"{name}.post_attention_layernorm.weight", f"{module}.post_norm", "weight")
    if config.is_dense(layer):
        yield from _mlp(config, layer, prefix, "mlp", f"{module}.mlp")
        return
    yield Entry(f"{name}.mlp.gate.weight", f"{module}.mlp.router", "weight")
    yield Entry(f"{name}.mlp.gate.e_score_correction_bias", f"{module}.mlp.router", "bias")
    yield from _mlp(config, layer, prefix, "mlp.shared_experts", f"{module}.mlp.shared")
    yield from _experts(config, layer, f"{name}.mlp.experts", f"{module}.mlp.experts")


def _attention(config: KimiK25Config, layer: int, name: str, module: str) -> Iterator[Entry]:
    query = "q_b_proj" if config.q_lora_rank else "q_proj"
    linears = [(query, "q", "q"), ("kv_a_proj_with_mqa", "qkv_a", "kv_a"), ("kv_b_proj", "attend", "kv_b")]
    if config.q_lora_rank:
        linears.append(("q_a_proj", "qkv_a", "q_a"))
        yield Entry(f"{name}.q_a_layernorm.weight", f"{module}.q_a_norm", "weight")
    yield Entry(f"{name}.kv_a_layernorm.weight", f"{module}.attend", "norm")
    for linear, leaf, part in (*linears, ("o_proj", "o", "o")):
        scheme = config.scheme(layer, f"self_attn.{linear}")
        yield from linear_entries(f"{name}.{linear}", f"{module}.{leaf}", part, scheme)


def _mlp(config: KimiK25Config, layer: int, prefix: str, name: str, module: str) -> Iterator[Entry]:
    for matrix, part in MATRICES:
        stem = f"{name}.{matrix}"
        yield from linear_entries(f"{prefix}model.layers.{layer}.{stem}", module, part, config.scheme(layer, stem))


def _experts(config: KimiK25Config, layer: int, name: str, module: str) -> Iterator[Entry]:
    schemes = {matrix: config.scheme(layer, f"mlp.experts.0.{matrix}") for matrix, _ in MATRICES}
    if config.quantization:
        config.quantization.check_experts(f"model.layers.{layer}.mlp.experts", config.n_routed_experts, schemes)
    for expert in range(config.n_routed_experts):
        for matrix, part in MATRICES:
            yield from linear_entries(f"{name}.{expert}.{matrix}", module, f"{expert}.{part}", schemes[matrix])
