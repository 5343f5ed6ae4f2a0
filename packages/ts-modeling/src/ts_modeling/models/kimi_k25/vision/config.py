"""Typed ``vision_config``: MoonViT and its projector; what they do not implement is refused by name."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from ....errors import ConfigError, shown

Width = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
Grid = Annotated[int, msgspec.Meta(ge=1, le=512)]
Merge = Annotated[int, msgspec.Meta(ge=1, le=16)]

NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "layers": ("vt_num_hidden_layers", "num_hidden_layers"),
    "hidden": ("vt_hidden_size", "hidden_size"),
    "heads": ("vt_num_attention_heads", "num_attention_heads"),
    "intermediate": ("vt_intermediate_size", "intermediate_size"),
    "patch": ("patch_size",),
    "grid_rows": ("init_pos_emb_height", "pos_emb_height"),
    "grid_columns": ("init_pos_emb_width", "pos_emb_width"),
    "frames": ("init_pos_emb_time", "pos_emb_time"),
    "merge": ("merge_kernel_size",),
    "projector_eps": ("projector_ln_eps",),
}
"""Our fields, and what the published checkpoints and transformers call them."""
ONLY: Final[Mapping[str, tuple[Any, ...]]] = {
    "pos_emb_type": ("divided_fixed",),
    "pos_emb_interpolation_mode": ("bicubic",),
    "video_attn_type": ("spatial_temporal",),
    "merge_type": ("sd2_tpool",),
    "mm_projector_type": ("patchmerger",),
    "projector_hidden_act": ("gelu",),
    "hidden_act": ("gelu_pytorch_tanh",),
    "activation_func": ("gelu_pytorch_tanh",),
    "norm_type": ("layernorm",),
    "mlp_type": ("mlp2",),
    "attn_bias": (True,),
    "linear_bias": (True,),
    "patch_embed_proj_bias": (True,),
}
"""Fields with the only values that the tower implements (MoonViT's later versions have others)."""
ROPE_THETA: Final = 10000.0


class VisionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Shape of the tower and the projector; ``grid_rows`` x ``grid_columns`` is the learned position table."""

    layers: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 27
    hidden: Width = 1152
    heads: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 16
    intermediate: Width = 4304
    patch: Annotated[int, msgspec.Meta(ge=1, le=256)] = 14
    grid_rows: Grid = 64
    grid_columns: Grid = 64
    frames: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Most frames of one chunk of a video."""
    merge: tuple[Merge, Merge] = (2, 2)
    """Rows and columns of patches that become one token."""
    projector_eps: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 1e-5
    media_token: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)] = 163605
    """Id that stands for an image's tokens in a prompt."""

    @property
    def head_width(self) -> int:
        """Columns of one head."""
        return self.hidden // self.heads

    @property
    def pixels(self) -> int:
        """Values of one patch: three colours of its square."""
        return 3 * self.patch**2


def parse_vision(raw: Mapping[str, Any]) -> VisionConfig:
    """Read the vision part of ``config.json``, with the published names (``vt_...``) or transformers'.

    Raises ``ConfigError`` naming the field.
    """
    part = raw.get("vision_config")
    if not isinstance(part, Mapping):
        raise ConfigError("config.json: no vision_config; this checkpoint has no vision tower: load it without vision")
    for name, allowed in ONLY.items():
        if part.get(name) is not None and part[name] not in allowed:
            raise ConfigError(
                f"config.json: vision_config.{name} = {shown(part[name])} is not supported; only {allowed[0]!r} is"
            )
    fields = {ours: part[name] for ours, names in NAMES.items() for name in reversed(names) if name in part}
    token = raw.get("media_placeholder_token_id", raw.get("image_token_id"))
    eps = raw.get("projection_layer_norm_eps")
    fields |= {} if token is None else {"media_token": token}
    fields |= {} if eps is None or "projector_eps" in fields else {"projector_eps": eps}
    try:
        config = msgspec.convert(fields, VisionConfig)
    except msgspec.ValidationError as error:
        message = str(error)
        for ours, names in NAMES.items():
            message = message.replace(f"`$.{ours}", f"`{next((n for n in names if n in part), ours)}")
        raise ConfigError(f"config.json: vision_config: {message}") from None
    _check_together(config, raw, part)
    return config


def _check_together(config: VisionConfig, raw: Mapping[str, Any], part: Mapping[str, Any]) -> None:
    """Fields that only make sense with one another."""
    rope = part.get("rope_parameters") or {}
    axial = {"rope_theta": ROPE_THETA, "rope_type": "axial"}
    width = part.get("mm_hidden_size", raw.get("projection_hidden_size"))
    checks = (
        (
            config.hidden % (4 * config.heads) == 0,
            f"hidden size {config.hidden} over {config.heads} heads leaves no multiple of 4 a head, which the rotation "
            "by rows and columns needs",
        ),
        (width in (None, config.hidden), f"mm_hidden_size = {shown(width)} must be the tower's width, {config.hidden}"),
        (
            part.get("qkv_hidden_size") in (None, config.hidden),
            f"qkv_hidden_size = {shown(part.get('qkv_hidden_size'))} is not supported; only {config.hidden} is",
        ),
        (
            isinstance(rope, Mapping) and {**axial, **rope} == axial,
            f"rope_parameters = {shown(rope)} is not supported; only {axial} is",
        ),
    )
    for holds, message in checks:
        if not holds:
            raise ConfigError(f"config.json: vision_config: {message}")
