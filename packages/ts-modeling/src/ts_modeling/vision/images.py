"""From decoded images to normalised patches, with the arithmetic of Kimi K2.5's own image processor.

An image is only ever made smaller: until it has no more patches than allowed, in all and along a side. It is padded
with black on the right and below to whole merged patches. Resizing is bicubic with antialiasing on 8-bit values.

Legend: F frames, H and W pixels high and wide, P patches, S side of a patch.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from ..checkpoint.folder import read_json
from ..errors import ConfigError, MediaError

MOST_PIXELS: Final = 1 << 28
"""Of a decoded image or a chunk of frames: what is larger is refused before it is touched."""
Side = Annotated[int, msgspec.Meta(ge=1, le=256)]
Number = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Colours = tuple[float, float, float]


class ImageRules(msgspec.Struct, frozen=True, kw_only=True):
    """How images become patches; names follow ``media_proc_cfg`` of ``preprocessor_config.json``, defaults K2.5's."""

    patch_size: Side = 14
    merge_kernel_size: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    in_patch_limit: Number = 16384
    in_patch_limit_each_frame: Number = 4096
    in_patch_limit_video: Number | None = None
    patch_limit_on_one_side: Annotated[int, msgspec.Meta(ge=1, le=512)] = 512
    temporal_merge_kernel_size: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    image_mean: Colours = (0.5, 0.5, 0.5)
    image_std: Colours = (0.5, 0.5, 0.5)
    fixed_output_tokens: None = None


@dataclass(frozen=True, slots=True)
class Patches:
    """One image, or a few frames of a video, cut up."""

    pixels: Tensor
    """Normalised floats [P, 3, S, S], frame by frame, row by row."""
    grid: tuple[int, int, int]
    """Frames, rows and columns of patches."""


def read_image_rules(folder: Path) -> ImageRules:
    """Rules of a checkpoint folder; the defaults if it has no ``preprocessor_config.json``. Raises ``ConfigError``."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return ImageRules()
    part = read_json(path, ConfigError).get("media_proc_cfg", {})
    try:
        rules = msgspec.convert(part, ImageRules)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: media_proc_cfg: {error}") from None
    if min(map(abs, rules.image_std)) == 0 or rules.patch_limit_on_one_side % rules.merge_kernel_size:
        raise ConfigError(
            f"{path}: media_proc_cfg: image_std must not be 0, and merge_kernel_size must divide "
            "patch_limit_on_one_side"
        )
    return rules


def media_tokens(chunk: Patches, merge: tuple[int, int] = (2, 2)) -> int:
    """How many media tokens a prompt must have for ``chunk``; frames of one chunk share theirs."""
    _, rows, columns = chunk.grid
    return (rows // merge[0]) * (columns // merge[1])


def image_patches(image: Tensor, rules: ImageRules | None = None) -> Patches:
    """Patches of one image, uint8 [3, H, W]. Raises ``MediaError`` for no image, or one too large."""
    rules = rules or ImageRules()
    _check(image, "image", ("3", "H", "W"))
    return _patches(image[None], rules, rules.in_patch_limit)


def video_patches(frames: Tensor, rules: ImageRules | None = None) -> list[Patches]:
    """Chunks of a few frames each of a video's sampled ``frames``, uint8 [F, 3, H, W]. Raises ``MediaError``."""
    rules = rules or ImageRules()
    _check(frames, "video", ("F", "3", "H", "W"))
    limit, size = rules.in_patch_limit_each_frame, rules.temporal_merge_kernel_size
    if rules.in_patch_limit_video is not None:
        limit = min(max(1, round(rules.in_patch_limit_video / len(frames))), limit)
    return [_patches(frames[i : i + size], rules, limit) for i in range(0, len(frames), size)]


def fitted(height: int, width: int, rules: ImageRules, most_patches: int) -> tuple[int, int]:
    """Pixels high and wide that an image is resized to, before padding."""
    side, longest = rules.patch_size, rules.patch_limit_on_one_side * rules.patch_size
    count = max(1, height // side) * max(1, width // side)
    scale = min(1.0, math.sqrt(most_patches / count), longest / width, longest / height)
    return min(max(1, int(height * scale)), longest), min(max(1, int(width * scale)), longest)


def _check(pixels: Tensor, what: str, dims: tuple[str, ...]) -> None:
    shape = list(pixels.shape)
    if pixels.dtype != torch.uint8:
        raise MediaError(f"{what}: its values are {pixels.dtype}; give uint8, from 0 to 255")
    if len(shape) != len(dims) or shape[-3] != 3:
        raise MediaError(f"{what}: its shape is {shape}; give [{', '.join(dims)}], red, green and blue")
    if 0 in shape:
        raise MediaError(f"{what}: its shape is {shape}, which has no pixels; leave it out")
    if pixels.numel() // 3 > MOST_PIXELS:
        raise MediaError(f"{what}: its shape is {shape}, more than {MOST_PIXELS} pixels; scale it down before")


def _patches(frames_F3HW: Tensor, rules: ImageRules, most_patches: int) -> Patches:
    before, side = frames_F3HW.shape[-2:], rules.patch_size
    height, width = fitted(before[0], before[1], rules, most_patches)
    if (height, width) != tuple(before):
        frames_F3HW = F.interpolate(frames_F3HW, (height, width), mode="bicubic", antialias=True)
    whole = rules.merge_kernel_size * side
    padded = F.pad(frames_F3HW, (0, -width % whole, 0, -height % whole))
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in (rules.image_mean, rules.image_std))
    values = (padded.float() / 255 - mean) / std
    rows, columns = values.shape[-2] // side, values.shape[-1] // side
    cut = values.reshape(-1, 3, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
    return Patches(cut.reshape(-1, 3, side, side), (len(values), rows, columns))
