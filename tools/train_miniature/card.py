"""Writes the model card from the measured results, so that its numbers cannot drift from them."""

# ruff: noqa: E501 - a filled line is shorter than its template

from __future__ import annotations

from pathlib import Path
from typing import Any

_CARD = """\
# Kimi K2.5 miniature

A small trained language model with exactly the text architecture of Kimi K2.5, so that an inference engine can be
developed, tested and demonstrated without the full checkpoint.

**It is not Kimi K2.5**, holds no weights or outputs of it, and is no useful assistant: it has seen only the Python
standard library and machine-made conversations. It completes Python recognisably, answers small requests from its
training templates, and calls declared tools in the real format. It knows no facts, and its code is often wrong.

## Shape

| | |
| --- | --- |
| parameters | 13.0 M (1.6 M of them in the extra layer), {megabytes:.1f} MB on disk |
| layers | 5 (first dense, 4 mixture-of-experts) and one multi-token-prediction layer (index 5) |
| experts | 16 routed, 4 active, 1 shared; sigmoid scores, choice corrected by a bias, weights normalized and scaled by 2.827 |
| attention | MLA: 4 heads, query rank 128, key-value rank 64, head 32 + 16 rotated, value 32 |
| positions | YaRN, factor 32 over 1,024 (32,768 positions declared; trained on rows of {row} and {long} tokens only) |
| vocabulary | 5,888 byte-level BPE ranks and 256 special ids, the full model's names at the same offsets |
| storage | routed experts INT4 symmetric in groups of 32 (compressed-tensors, pack-quantized), all else bf16 |

Names, configuration layout, tokenizer files and chat format are those of the real checkpoint. RMS norms use epsilon
1e-5, the two latent norms inside attention 1e-6 (as transformers' DeepSeek-V3 does). The extra layer has the
embedding and head of the main model; its input is the main model's final state after the last norm, `eh_proj` takes
`[enorm(embedding), hnorm(state)]`, and position i predicts token i + 2.

## Training

Text: {train_files} files of CPython {python}'s standard library, {train_mb:.1f} MB ({code_tokens:,} tokens), and {conversations:,}
conversations ({chat_tokens:,} tokens) made from the same files' docstrings, from hand-written small tasks and from
invented tool calls; for a time some rows were random tokens that repeat, to teach copying. Held out, whole files chosen by a hash of the path, from tokenizer and conversations too:
{held_files} files, {held_kb:.0f} kB.

{tokens:,} tokens in {steps:,} steps and {minutes:.0f} minutes on two shared CPU cores; Muon and AdamW, learning rate annealed to
zero, experts trained through their INT4 values in the last part. The script and its recipe are in
`tools/train_miniature`, the full record is `training.json`.

![loss curve](training.png)

## Measured on the held-out files

| | bits per byte |
| --- | --- |
| **this checkpoint, as stored (INT4 experts)** | **{bpb:.3f}** |
{ngrams}

The baselines are interpolated modified Kneser-Ney models trained on the same text. The model is scored in windows of
{window:,} tokens, at least {context} of them context (except at the start). Next token predicted greedily: {top1:.1%}.

Nats per token by position in rows of 2,048 tokens, 256 positions at a time: {positions}. Rising
numbers mean that the model has not learned to use contexts of that length; do not judge long context by it.

Multi-token prediction, teacher-forced on the same files: the extra layer's first draft equals the model's own greedy
choice for {acceptance:.1%} of tokens (what greedy speculation would accept), and the actual text for {draft:.1%}.

## Licence of the training text

CPython's standard library, Python Software Foundation License 2.
"""


def write_card(results: dict[str, Any], weights: Path, target: Path) -> None:
    """Fill the card with ``results`` (see ``report.summarize``) and write it to ``target``."""
    data, model, recipe = results["data"], results["model"], results["recipe"]
    ngrams = sorted(results["ngram_bits_per_byte"].items(), key=lambda item: float(item[1]))
    text = _CARD.format(
        megabytes=weights.stat().st_size / 1e6,
        row=recipe["row_tokens"],
        long=f"{recipe['long_tokens']:,}",
        train_files=data["files"]["train"],
        python=data["python"],
        train_mb=data["bytes"]["train"] / 1e6,
        code_tokens=data["tokens"]["code"],
        conversations=data["conversations"],
        chat_tokens=data["tokens"]["chat"],
        held_files=data["files"]["held_out"],
        held_kb=data["bytes"]["held_out"] / 1e3,
        tokens=results["training"]["tokens"],
        steps=results["training"]["steps"],
        minutes=results["training"]["minutes"],
        bpb=model["bits_per_byte"],
        ngrams="\n".join(f"| Kneser-Ney, {name} | {value:.3f} |" for name, value in ngrams),
        window=model["window"],
        context=model["window"] - model["fresh"],
        positions=", ".join(f"{x:.2f}" for x in model["nats_per_token_by_position"]),
        top1=model["next_token_accuracy"],
        acceptance=model["mtp_acceptance"],
        draft=model["mtp_accuracy"],
    )
    target.write_text(text)
