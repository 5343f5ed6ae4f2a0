"""Command line: ``python -m tools.train_miniature {prepare,train,baseline,evaluate,sample,publish} FOLDER``."""

from __future__ import annotations

import argparse
import shutil
import sysconfig
import time
from pathlib import Path

from .baseline import run_baselines
from .card import write_card
from .chat_format import render
from .evaluate import generate
from .export import load_miniature
from .package import MINIATURE, write_folder
from .prepare import prepare
from .report import measure, plot, summarize
from .tokenizer import EOS, IM_END, load_encoding
from .train import STATE, Recipe, continue_from, train

DOCS = Path(__file__).parents[2] / "docs/benchmarks"


def _train(folder: Path, args: argparse.Namespace) -> None:
    if args.continue_from and not (folder / STATE).exists():
        continue_from(folder, args.continue_from)
    now = time.time()
    train(folder, Recipe(started=now, deadline=now + 60 * args.minutes, workers=args.workers))


def _sample(folder: Path, args: argparse.Namespace) -> None:
    encoding = load_encoding(folder / "tiktoken.model")
    text = args.prompt
    if args.chat:
        text = render([{"role": "user", "content": text}], add_generation_prompt=True, thinking=args.thinking)
    ids = encoding.encode(text, allowed_special="all")
    out = generate(load_miniature(folder / "model.safetensors"), ids, stop=frozenset({EOS, IM_END}), limit=args.limit)
    print(encoding.decode(out))


def _publish(folder: Path) -> None:
    write_folder(MINIATURE, weights=folder / "model.safetensors", ranks=folder / "tiktoken.model")
    DOCS.mkdir(parents=True, exist_ok=True)
    results = summarize(folder, DOCS / "miniature-training.json")
    plot(results, DOCS / "miniature-training.png")
    write_card(results, MINIATURE / "model.safetensors", MINIATURE / "README.md")
    for suffix in (".json", ".png"):
        shutil.copyfile(DOCS / f"miniature-training{suffix}", MINIATURE / f"training{suffix}")


def main() -> None:
    """Run one step of the recipe."""
    parser = argparse.ArgumentParser(prog="train_miniature", description=__doc__)
    parser.add_argument("step", choices=["prepare", "train", "baseline", "evaluate", "sample", "publish"])
    parser.add_argument("folder", type=Path, help="working folder for data, checkpoints and logs")
    parser.add_argument("--library", type=Path, default=Path(sysconfig.get_path("stdlib")), help="Python sources")
    parser.add_argument("--minutes", type=float, default=75.0, help="time budget of training")
    parser.add_argument("--continue-from", type=Path, help="published miniature whose weights a new run begins with")
    parser.add_argument("--workers", type=int, default=2, help="training processes, one per core")
    parser.add_argument("--prompt", default="def ", help="text to continue, for sample")
    parser.add_argument("--chat", action="store_true", help="treat the prompt as a user message")
    parser.add_argument("--no-thinking", dest="thinking", action="store_false")
    parser.add_argument("--limit", type=int, default=200, help="most tokens to sample")
    args = parser.parse_args()
    folder: Path = args.folder
    if args.step == "prepare":
        prepare(folder, args.library)
    elif args.step == "train":
        _train(folder, args)
    elif args.step == "baseline":
        run_baselines(folder)
    elif args.step == "evaluate":
        measure(folder, folder / "model.safetensors")
    elif args.step == "sample":
        _sample(folder, args)
    else:
        _publish(folder)


if __name__ == "__main__":
    main()
