"""``ts-modeling explain``: the compiled plan of a model for a mesh, from its configuration alone."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from .checkpoint import read_json
from .compiler import explain, lower
from .configuration import ModelConfig
from .errors import ConfigError, ModelingError
from .load import DTYPES
from .placement import Mesh
from .registry import build, config_from, read_config

HERE: Final = Path(__file__).parent
NAMED: Final = {
    "kimi-k2.5": HERE / "models" / "kimi_k25" / "published.json",
    "kimi-k2.5-mini": HERE / "miniatures" / "kimi_k25" / "config.json",
}
"""Configurations that come with the package."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(arguments)
    try:
        config = named_config(args.model)
        mesh = Mesh.parse(args.mesh)
        built = build(config, mesh, dtype=DTYPES[args.dtype], device=torch.device("cpu"), positions=1)
    except ModelingError as error:
        print(f"ts-modeling: {error}", file=sys.stderr)
        return 2
    if args.code:
        print(lower(built.program, None)[0], end="")
    else:
        print(explain(built.program, itemsize=DTYPES[args.dtype].itemsize), end="")
    return 0


def named_config(model: str) -> ModelConfig:
    """Configuration of a model that comes with the package, a checkpoint folder, or a config.json file."""
    path = NAMED.get(model, Path(model))
    if path.is_file():
        return config_from(read_json(path, ConfigError))
    if not path.is_dir():
        raise ConfigError(f"--model {model}: neither a folder nor one of {', '.join(NAMED)}")
    return read_config(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ts-modeling", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("explain", help="print the compiled plan, with the bytes of each collective")
    command.add_argument("--model", required=True, help=f"{', '.join(NAMED)}, or a checkpoint folder")
    command.add_argument("--mesh", default="", help="for example attn_tp=4,moe_tp=4; one rank by default")
    command.add_argument("--dtype", default="bfloat16", choices=sorted(DTYPES), help="of activations")
    command.add_argument("--code", action="store_true", help="print the compiled Python instead")
    return parser


if __name__ == "__main__":
    sys.exit(main())
