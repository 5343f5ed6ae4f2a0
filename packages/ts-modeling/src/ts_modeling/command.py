"""``ts-modeling explain``: the compiled plan of a model for a mesh, from its configuration alone."""

import argparse
import difflib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import torch

from .checkpoint import read_json
from .compiler import Costs, Plans, difference, explain, lower, summarize
from .configuration import ModelConfig
from .errors import ConfigError, ModelingError
from .family_file import family_of_file
from .load import DTYPES
from .models.family import Family
from .placement import Mesh
from .registry import Built, build, config_from, family_of, kv_spec, read_config

HERE: Final = Path(__file__).parent
NAMED: Final = {
    "kimi-k2.5": HERE / "models" / "kimi_k25" / "published.json",
    "kimi-k2.5-mini": HERE / "miniatures" / "kimi_k25" / "config.json",
}
"""Configurations that come with the package."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.diff is not None and (args.code or args.all):
        parser.error("--diff compares figures: leave --code and --all out")
    try:
        with family_of_file(args.family) if args.family else nullcontext() as family:
            told = _explain(args, family)
        print(told, end="", flush=True)
    except ModelingError as error:
        print(f"ts-modeling: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def named_config(model: str, *, vision: bool = False, draft: str | None = None) -> ModelConfig:
    """Configuration of a model that comes with the package, a checkpoint folder, or a config.json file."""
    path = NAMED.get(model, Path(model))
    if path.is_file():
        return config_from(read_json(path, ConfigError), vision=vision, draft=draft)
    if not model or not path.is_dir():
        close = difflib.get_close_matches(model.lower(), NAMED, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"--model {model!r}: no such folder or config.json; {meant}known are {', '.join(NAMED)}, of other models "
            "give the config.json"
        )
    return read_config(path, vision=vision, draft=draft)


def _explain(args: argparse.Namespace, family: Family[Any] | None) -> str:
    config = named_config(args.model, vision=args.vision, draft=args.draft)
    if family and family_of(config) not in (family, family.mtp):
        having = ", ".join(family.architectures)
        raise ConfigError(f"--model {args.model!r} is none of --family {args.family}, which has {having}")
    itemsize = DTYPES[args.dtype].itemsize
    plans = _plans(config, args.mesh, args)
    program = plans.at(args.tokens)
    kv = None if args.vision else kv_spec(config, program.mesh, dtype=DTYPES[args.kv_dtype])
    figures = summarize(program, itemsize=itemsize, kv=kv)
    other = None
    if args.diff is not None:
        beside = _plans(config, args.diff, args).at(args.tokens)
        other_kv = None if args.vision else kv_spec(config, beside.mesh, dtype=DTYPES[args.kv_dtype])
        other = summarize(beside, itemsize=itemsize, kv=other_kv)
    if args.json:
        return json.dumps([f.as_json() for f in (figures, other) if f], indent=1) + "\n"
    if other:
        return difference(figures, other)
    if args.code:
        return lower(program, None)[0]
    told = explain(program, itemsize=itemsize, kv=kv, every=args.all) + _switches(plans)
    return told + _drawing(config, args, itemsize)


def _plans(config: ModelConfig, mesh: str, args: argparse.Namespace) -> Plans:
    built = _built(config, mesh, args)
    return built.vision.plans if built.vision else built.plans


def _drawing(config: ModelConfig, args: argparse.Namespace, itemsize: int) -> str:
    """The plan of the draw, where logits stay cut."""
    sampler = _built(config, args.mesh, args).sampler if args.candidates else None
    return f"\nthe draw\n{explain(sampler.plans.programs[0], itemsize=itemsize)}" if sampler else ""


def _built(config: ModelConfig, mesh: str, args: argparse.Namespace) -> Built:
    dtype, device = DTYPES[args.dtype], torch.device("cpu")
    costs = Costs(start=args.start, itemsize=dtype.itemsize)
    options: Any = {"positions": 1, "candidates": args.candidates, "costs": costs}
    return build(config, Mesh.parse(mesh), dtype=dtype, device=device, **options)


def _switches(plans: Plans) -> str:
    if len(plans.programs) == 1:
        return "plans: this one for any number of tokens\n"
    parts = [f"from {since} tokens: {p.choices}" for p, since in zip(plans.programs, plans.since, strict=True)]
    return f"plans: {'; '.join(parts)}\n"


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ts-modeling", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("explain", help="print the compiled plan, with the bytes of each collective")

    def add(name: str, **options: Any) -> None:
        command.add_argument(name, **options)

    add("--model", required=True, help=f"{', '.join(NAMED)}, a checkpoint folder, or a config.json")
    add("--family", type=Path, metavar="FILE", help="a Python file to run, whose FAMILY has the model's architecture")
    add("--mesh", default="", help="for example attn_tp=4,moe_tp=4; one rank by default")
    add("--diff", metavar="MESH", help="compare with the plan for another mesh")
    add("--tokens", type=_count, default=1, help="of the whole batch in a step: which of the plans to print (1)")
    add("--start", type=_count, default=Costs().start, help="bytes that a link carries while a collective begins")
    add("--dtype", default="bfloat16", choices=sorted(DTYPES), help="of activations")
    add("--kv-dtype", default="bfloat16", choices=sorted(DTYPES), help="of the cache")
    add("--vision", action="store_true", help="of the vision tower, whose tokens are patches")
    add("--draft", choices=["mtp"], help="of the layer for multi-token prediction in the model's place")
    add("--candidates", type=_count, default=0, help="leave logits cut, and draw among so many of each rank")
    forms = command.add_mutually_exclusive_group()
    forms.add_argument("--all", action="store_true", help="print every layer, also where layers are alike")
    forms.add_argument("--code", action="store_true", help="print the compiled Python instead")
    forms.add_argument("--json", action="store_true", help="print the figures alone, as JSON")
    return parser
