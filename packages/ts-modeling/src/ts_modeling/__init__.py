"""Models written for one device and compiled for any mesh; see ``load_model``. Names are those of ``api``.

They are found when they are asked for: importing the package alone does not import torch, which takes seconds in which
the command line already answers to an interrupt.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    api = import_module(".api", __name__)
    if name == "__all__" or name in api.__all__:
        return globals().setdefault(name, getattr(api, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
