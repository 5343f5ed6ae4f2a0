"""What the command line's arguments mean: devices, dtypes, sizes by name. Mistakes are ``SelectionError``."""

import argparse
import os
import warnings
from dataclasses import fields, replace
from pathlib import Path

import torch

from . import cases, contract, plugins
from .errors import SelectionError, nearest
from .registry import REGISTRY
from .selection import OPERATIONS

# The letters that docstrings and explanations use, beside the names that ``Sizes`` has.
LETTERS = {
    "D": "hidden", "H": "heads", "N": "nope", "R": "rope", "V": "v", "L": "latent", "I": "inter", "E": "experts",
    "k": "top_k", "B": "rows", "T": "prompt", "S": "context",
}  # fmt: skip

MOST_SECONDS = 3600


def device_of(name: str, advice: str = "") -> torch.device:
    """The device of this name; a GPU must be here."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a name that torch is about to forget
            device = torch.device(name)
    except RuntimeError as error:
        raise SelectionError(f"--device: {error}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SelectionError(f"--device: there is no GPU here{advice}")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # no such backend here, or numbers that are nowhere
        why = str(error).partition("\n")[0][:120]
        raise SelectionError(f"--device: {name!r} cannot hold numbers here: {why}") from None
    return device


def activations_of(text: str) -> torch.dtype:
    """The dtype of this name, one that activations may have."""
    dtype = dtype_of(text)
    if dtype not in contract.FLOATS:
        raise SelectionError(f"--dtype: activations are float32 or bfloat16, not {text}")
    return dtype


def size_of(name: str, text: str) -> int:
    """The size that ``text`` says, a positive number of 63 bits at most, or 0."""
    if not text.isdecimal() or len(text) > 18:
        raise SelectionError(f"--shape: {name} must be a whole number of at most 18 digits, got {text[:40]!r}")
    return int(text)


def output_file(text: str) -> Path:
    """A file that can be written, for argparse: its folder is looked at before the work, not after."""
    path = Path(text)
    if not text or not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no file in a folder that exists")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


def output_folder(text: str) -> Path:
    """A folder that can be written to, for argparse."""
    path = Path(text)
    if not text or not path.is_dir() or not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} is no folder that can be written to")
    return path


def filled(text: str) -> str:
    """A text that says something, for argparse: what is empty, or commas alone, is no way to ask for the default."""
    if not text.strip(", "):
        raise argparse.ArgumentTypeError(f"must not be empty, got {text!r}")
    return text


def seconds(text: str) -> float:
    """Seconds for each figure, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, {MOST_SECONDS} at most, got {text!r}")
    return number


def some_operation(prefix: str) -> None:
    """Refuse an --only that no operation starts with."""
    if not any(name.startswith(prefix) for name in OPERATIONS):
        near = nearest(prefix, OPERATIONS)
        raise SelectionError(f"--only: no operation starts with {prefix!r}; the nearest are {near}")


def kernel_names(text: str, prefix: str) -> tuple[str, ...]:
    """NAME,NAME of --impl, each once: a kernel that some operation starting with ``prefix`` has."""
    plugins.load_all()
    operations = [name for name in OPERATIONS if name.startswith(prefix)]
    known = {spec.name for name in operations for spec in REGISTRY.kernels(name)}
    names = tuple(dict.fromkeys(filter(None, text.split(","))))
    for name in names:
        if name not in known:
            raise SelectionError(f"--impl: no such kernel {name!r}; there are {', '.join(sorted(known))}")
    return names


def dtype_of(text: str) -> torch.dtype:
    """The dtype of this name."""
    wide = (torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int64)
    narrow = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8)
    known = {str(d).removeprefix("torch."): d for d in (*wide, *narrow)}
    if text not in known:
        raise SelectionError(f"--dtype: {text!r} is not one of {', '.join(known)}")
    return known[text]


def pairs(text: str, option: str) -> dict[str, str]:
    """NAME=VALUE,NAME=VALUE, each name once; values of --shape are whole numbers from 0."""
    found: dict[str, str] = {}
    for item in filter(None, text.split(",")):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name or not value:
            raise SelectionError(f"{option}: {item!r} must be NAME=VALUE, several separated by commas")
        if option == "--shape" and not (value.isascii() and value.isdecimal()):
            raise SelectionError(f"{option}: {item!r} must be NAME=VALUE with a whole number from 0")
        if name in found:
            raise SelectionError(f"{option}: {name} is given twice")
        found[name] = value
    return found


def sizes_of(text: str, start: cases.Sizes) -> cases.Sizes:
    """``start`` with the sizes that --shape names, by the names of ``Sizes`` or by letter."""
    known = {field.name for field in fields(cases.Sizes)}
    given = {}
    for name, value in pairs(text, "--shape").items():
        field = LETTERS.get(name, name)
        if field not in known:
            raise SelectionError(f"--shape knows {', '.join(sorted(known))} and {', '.join(LETTERS)}; not {name!r}")
        given[field] = size_of(name, value)
        if given[field] < 1:
            raise SelectionError(f"--shape: {name} must be at least 1")
    return replace(start, **given)
