"""What the command line's arguments mean: devices, dtypes, sizes by name. Mistakes are ``SelectionError``."""

from dataclasses import fields, replace

import torch

from . import cases
from .errors import SelectionError

# The letters that docstrings and explanations use, beside the names that ``Sizes`` has.
LETTERS = {
    "D": "hidden", "H": "heads", "N": "nope", "R": "rope", "V": "v", "L": "latent", "I": "inter", "E": "experts",
    "k": "top_k", "B": "rows", "T": "prompt", "S": "context",
}  # fmt: skip


def device_of(name: str, advice: str = "") -> torch.device:
    """The device of this name; a GPU must be here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SelectionError(f"--device: {error}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SelectionError(f"--device: there is no GPU here{advice}")
    return device


def dtype_of(text: str) -> torch.dtype:
    """The dtype of this name."""
    wide = (torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int64)
    narrow = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8)
    known = {str(d).removeprefix("torch."): d for d in (*wide, *narrow)}
    if text not in known:
        raise SelectionError(f"--dtype: {text!r} is not one of {', '.join(known)}")
    return known[text]


def pairs(text: str, option: str) -> dict[str, str]:
    """NAME=VALUE,NAME=VALUE; values of --shape are whole numbers."""
    found = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if not equals or not value or (option == "--shape" and not value.isdecimal()):
            raise SelectionError(f"{option}: {item!r} must be NAME=VALUE, several separated by commas")
        found[name.strip()] = value.strip()
    return found


def sizes_of(text: str, start: cases.Sizes) -> cases.Sizes:
    """``start`` with the sizes that --shape names, by the names of ``Sizes`` or by letter."""
    known = {field.name for field in fields(cases.Sizes)}
    given = {}
    for name, value in pairs(text, "--shape").items():
        field = LETTERS.get(name, name)
        if field not in known:
            raise SelectionError(f"--shape knows {', '.join(sorted(known))} and {', '.join(LETTERS)}; not {name!r}")
        given[field] = int(value)
    return replace(start, **given)
