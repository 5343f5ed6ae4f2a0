"""Checkpoint names that most decoders share, and the modules and parts that they fill."""

from collections.abc import Iterable, Iterator, Sequence

from ..checkpoint.table import Entry, Table, linear_entries
from ..configuration import DecoderConfig, GroupedConfig

Matrices = Sequence[tuple[str, str]]
"""Names in the checkpoint, and the parts that they fill."""
MATRICES: Matrices = (("gate_proj", "gate"), ("up_proj", "up"), ("down_proj", "down"))


def decoder_table(config: DecoderConfig, layers: Iterable[Entry], *, skipped: tuple[str, ...] = ()) -> Table:
    """Embedding, ``layers``, norm and head. ``skipped`` tensors may be there and are left for others."""
    entries = [Entry(config.stored("model.embed_tokens.weight"), "embed", "weight"), *layers]
    entries.append(Entry(config.stored("model.norm.weight"), "norm", "weight"))
    if config.tie_word_embeddings:
        entries.append(Entry(config.stored("model.embed_tokens.weight"), "head", "head.weight"))
        skipped = (*skipped, config.stored("lm_head."))  # some files hold the tied matrix twice
    else:
        entries += linear(config, "lm_head", "head", "head")
    return Table(tuple(entries), skipped=skipped, ignored_suffixes=(".rotary_emb.inv_freq",))


def linear(config: DecoderConfig, name: str, module: str, part: str, *, bias: bool = False) -> Iterator[Entry]:
    """The Linear called ``name`` in the text model, in the format that the configuration says."""
    return linear_entries(config.stored(name), module, part, config.format_of(name), bias=bias)


def layer_norms(config: DecoderConfig, name: str, module: str) -> Iterator[Entry]:
    """Both norms of a layer."""
    yield Entry(config.stored(f"{name}.input_layernorm.weight"), f"{module}.input_norm", "weight")
    yield Entry(config.stored(f"{name}.post_attention_layernorm.weight"), f"{module}.post_norm", "weight")


def attention(
    config: GroupedConfig, name: str, module: str, *, bias: bool = False, out_bias: bool = False, norms: str = ""
) -> Iterator[Entry]:
    """Grouped-query attention; ``norms`` is the leaf that holds the gains of queries and keys."""
    for part in ("q", "k", "v"):
        yield from linear(config, f"{name}.{part}_proj", f"{module}.qkv", part, bias=bias)
    yield from linear(config, f"{name}.o_proj", f"{module}.o", "o", bias=out_bias)
    for part in ("q_norm", "k_norm") if norms else ():
        yield Entry(config.stored(f"{name}.{part}.weight"), f"{module}.{norms}", part)


def mlp(config: DecoderConfig, name: str, module: str, matrices: Matrices = MATRICES) -> Iterator[Entry]:
    """A gated MLP."""
    for matrix, part in matrices:
        yield from linear(config, f"{name}.{matrix}", module, part)


def experts(
    config: DecoderConfig, name: str, module: str, count: int, matrices: Matrices = MATRICES
) -> Iterator[Entry]:
    """Routed experts with tensors of their own. Raises ``ConfigError`` where they are not all stored alike."""
    if config.quantization:
        config.quantization.check_experts(name, count, [matrix for matrix, _ in matrices])
    for matrix, part in matrices:
        scheme = config.format_of(f"{name}.0.{matrix}")
        for expert in range(count):
            yield from linear_entries(config.stored(f"{name}.{expert}.{matrix}"), module, f"{expert}.{part}", scheme)


__all__ = ["MATRICES", "attention", "decoder_table", "experts", "layer_norms", "linear", "mlp"]
