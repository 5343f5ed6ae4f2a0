"""Everything that this package raises for a user.

    ModelingError
    ├── ConfigError        config.json: missing, malformed, absurd or unsupported value
    ├── CheckpointError    files: truncated, corrupt, missing, unknown or wrongly shaped tensors
    ├── MediaError         images that cannot be used, or that do not fit the prompt
    ├── MeshError          axes that do not divide a world
    ├── CommunicationError ranks that are gone, late, or run something else
    └── PlacementError     a conversion that no collective can do
        └── CompileError   a module boundary that does not fit its neighbour

Programmer errors are assertions.
"""

from typing import Final

MOST_SHOWN: Final = 120
"""Characters of a value in a message."""


class ModelingError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(ModelingError):
    """A model configuration that cannot be used; the message names the field."""


class CheckpointError(ModelingError):
    """A checkpoint that cannot be used; the message names the file and the tensor."""


class MediaError(ModelingError):
    """An image, video or batch of patches that cannot be used; the message names the part and the fix."""


class MeshError(ModelingError):
    """A mesh whose axes do not divide its world; the message names the axes."""


class CommunicationError(ModelingError):
    """Other ranks that are gone, late, or run something else; the message says in what, and this rank's number."""


class PlacementError(ModelingError):
    """A placement that cannot become another one."""


class CompileError(PlacementError):
    """A model whose annotations do not fit together; the message names module, edge, placements and a fix."""


def shown(value: object) -> str:
    """What a message quotes of ``value``: its first characters, as a file may hold megabytes of it."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
