"""Images to patches with the reference's arithmetic; images, batches and configurations that must be refused."""

import ast
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from ts_modeling import ConfigError, MediaError
from ts_modeling.models.kimi_k25.vision import VisionConfig, parse_vision
from ts_modeling.testing import TINY_VISION
from ts_modeling.vision import (
    ImageRules,
    Patches,
    image_patches,
    media_tokens,
    pack,
    place_media,
    read_image_rules,
    video_patches,
)
from ts_modeling.vision.images import fitted

SMALL = ImageRules(in_patch_limit=24, in_patch_limit_each_frame=10, patch_limit_on_one_side=8)
SIZES = st.one_of(st.integers(1, 80), st.integers(1, 20000))


def reference_resize() -> Any:
    """transformers' function for sizes, taken out of its module, which needs torchvision as a whole."""
    path = Path(transformers.__file__).parent / "models" / "kimi_k25" / "image_processing_kimi_k25.py"
    wanted = [
        n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == "navit_resize"
    ]
    scope: dict[str, Any] = {"math": math}
    exec(compile(ast.Module(wanted, []), str(path), "exec"), scope)
    return scope["navit_resize"]


RESIZE = reference_resize()


@given(SIZES, SIZES, st.sampled_from([16384, 4096, 24]), st.sampled_from([512, 8]))
def test_sizes_are_those_of_transformers(height: int, width: int, limit: int, side: int) -> None:
    rules = ImageRules(patch_limit_on_one_side=side)
    size, _ = RESIZE(height, width, 14, 2, limit, side)
    assert fitted(height, width, rules, limit) == size


def image(height: int, width: int, frames: int = 0) -> Tensor:
    shape = (frames, 3, height, width) if frames else (3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(height))


@pytest.mark.parametrize(("height", "width"), [(300, 211), (97, 500), (40, 30), (28, 56), (2000, 3), (1, 1)])
def test_patches_are_those_of_pillow_and_numpy(height: int, width: int) -> None:
    """The published processor's way: resize, pad on the right and below, scale, cut; 8-bit values may differ by one."""
    pillow = pytest.importorskip("PIL.Image")
    pixels = image(height, width)
    ours = image_patches(pixels, SMALL)
    (high, wide), padded = RESIZE(height, width, 14, 2, 24, 8)
    resized = np.asarray(pillow.fromarray(pixels.permute(1, 2, 0).numpy()).resize((wide, high), 3))
    whole = np.pad(resized, ((0, padded[0] - high), (0, padded[1] - wide), (0, 0)))
    rows, columns = padded[0] // 14, padded[1] // 14
    cut = ((whole / 255 - 0.5) / 0.5).reshape(rows, 14, columns, 14, 3).transpose(0, 2, 4, 1, 3)
    difference = np.abs(ours.pixels.numpy() - cut.reshape(-1, 3, 14, 14)) * 127.5
    assert ours.grid == (1, rows, columns)
    assert ours.pixels.dtype == torch.float32
    assert difference.max() < 1.01
    assert (difference > 0.01).mean() < 0.01


def test_means_and_deviations_are_honoured_for_each_colour() -> None:
    rules = ImageRules(image_mean=(0.5, 0.25, 0.0), image_std=(0.5, 0.25, 2.0))
    patches = image_patches(torch.full((3, 28, 28), 255, dtype=torch.uint8), rules)
    torch.testing.assert_close(patches.pixels[:, :, 5, 5], torch.tensor([1.0, 3.0, 0.5]).expand(4, 3))


def test_videos_are_chunks_of_a_few_frames() -> None:
    frames = image(60, 90, frames=10)
    chunks = video_patches(frames, SMALL)
    assert [c.grid for c in chunks] == [(4, 4, 6), (4, 4, 6), (2, 4, 6)]
    for number, chunk in enumerate(chunks):
        for i in range(chunk.grid[0]):
            alone = image_patches(frames[4 * number + i], ImageRules(in_patch_limit=10, patch_limit_on_one_side=8))
            torch.testing.assert_close(chunk.pixels[i * 24 : i * 24 + 24], alone.pixels)
    assert [media_tokens(c) for c in chunks] == [6, 6, 6]


def test_a_limit_for_the_whole_video_lowers_that_of_frames() -> None:
    free, tight = (video_patches(image(140, 140, frames=8), ImageRules(in_patch_limit_video=n)) for n in (None, 80))
    assert free[0].grid == (4, 10, 10)
    assert tight[0].grid == (4, 4, 4)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(3, 0, 28, dtype=torch.uint8), "no pixels; leave it out"),
        (torch.zeros(28, 28, 3, dtype=torch.uint8), r"\[28, 28, 3\]; give \[3, H, W\]"),
        (torch.zeros(4, 28, 28, dtype=torch.uint8), r"give \[3, H, W\]"),
        (torch.zeros(1, 3, 28, 28, dtype=torch.uint8), r"give \[3, H, W\]"),
        (torch.zeros(3, 28, 28), "float32; give uint8"),
        (torch.zeros(1, 1, 1, dtype=torch.uint8).expand(3, 1 << 15, 1 << 14), "more than 268435456 pixels; scale"),
    ],
)
def test_images_that_are_none_are_refused(pixels: Tensor, message: str) -> None:
    with pytest.raises(MediaError, match=f"image: .*{message}"):
        image_patches(pixels)


def test_videos_without_frames_are_refused() -> None:
    with pytest.raises(MediaError, match=r"video: .*no pixels"):
        video_patches(torch.zeros(0, 3, 28, 28, dtype=torch.uint8))


def chunk(*grid: int, side: int = 14, count: int | None = None) -> Patches:
    frames, rows, columns = grid
    number = frames * rows * columns if count is None else count
    return Patches(torch.zeros(1, 1, 1, 1).expand(number, 3, side, side), (frames, rows, columns))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (chunk(1, 0, 4), "empty"),
        (chunk(5, 2, 2), "more than 4 frames"),
        (chunk(1, 514, 2), "side above 512"),
        (chunk(4, 256, 128), "more than 65536 patches"),
        (chunk(1, 3, 4), "does not divide by merge_kernel_size 2 x 2; pad"),
        (chunk(1, 2, 4, count=7), r"shape \[7, 3, 14, 14\], but its grid of 1 x 2 x 4 .* asks for \[8, 3, 14, 14\]"),
        (chunk(1, 2, 4, side=16), r"asks for \[8, 3, 14, 14\]"),
        (Patches(torch.zeros(4, 3, 14, 14, dtype=torch.uint8), (1, 2, 2)), "uint8; give normalised floats"),
    ],
)
def test_chunks_that_do_not_fit_the_tower_are_named(bad: Patches, message: str) -> None:
    with pytest.raises(MediaError, match=f"chunk 1: .*{message}"):
        pack([chunk(1, 2, 2), bad], shape=VisionConfig(), dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("rows", [0, 2, 4])
def test_features_that_do_not_fit_the_prompt_are_refused(rows: int) -> None:
    with pytest.raises(MediaError, match=rf"3 media tokens \(id 9\), but the features are \[{rows}, 6\]"):
        place_media(torch.tensor([1, 9, 9, 2, 9]), torch.zeros(rows, 6), 9)


def test_features_take_the_places_of_media_tokens() -> None:
    media = place_media(torch.tensor([1, 9, 9, 2, 9]), torch.zeros(3, 6), 9)
    assert media is not None
    assert media.rows.tolist() == [1, 2, 4]
    assert place_media(torch.tensor([1, 2]), torch.zeros(0, 6), 9) is None


def test_both_ways_to_write_the_configuration() -> None:
    """transformers' names, and the published ones, which win."""
    plain = {
        "patch_size": 16,
        "pos_emb_height": 6,
        "pos_emb_width": 6,
        "pos_emb_time": 3,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "hidden_size": 36,
        "intermediate_size": 52,
        "hidden_act": "gelu_pytorch_tanh",
        "merge_kernel_size": (2, 3),
        "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0},
    }
    raw = {"vision_config": plain, "image_token_id": 4, "projection_hidden_size": 36, "projection_layer_norm_eps": 1e-3}
    config = parse_vision(raw)
    assert config == VisionConfig(
        layers=2,
        hidden=36,
        heads=3,
        intermediate=52,
        patch=16,
        grid_rows=6,
        grid_columns=6,
        frames=3,
        merge=(2, 3),
        projector_eps=1e-3,
        media_token=4,
    )
    published = {**plain, "vt_num_hidden_layers": 5, "projector_ln_eps": 1e-4}
    mixed = parse_vision({**raw, "vision_config": published, "media_placeholder_token_id": 5})
    assert (mixed.layers, mixed.projector_eps, mixed.media_token) == (5, 1e-4, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pos_emb_interpolation_mode": "bilinear"}, "pos_emb_interpolation_mode = 'bilinear'"),
        ({"norm_type": "rmsnorm"}, "norm_type = 'rmsnorm'"),
        ({"attn_bias": False}, "attn_bias = False"),
        ({"mm_projector_type": "patchmergerv2"}, "mm_projector_type = 'patchmergerv2'"),
        ({"mm_hidden_size": 64}, "mm_hidden_size = 64 must be the tower's width, 36"),
        ({"qkv_hidden_size": 72}, "qkv_hidden_size = 72"),
        ({"vt_hidden_size": 42, "mm_hidden_size": 42}, "no multiple of 4 a head"),
        ({"vt_num_attention_heads": 0}, "`vt_num_attention_heads`"),
        ({"vt_hidden_size": 1 << 40}, "`vt_hidden_size`"),
        ({"init_pos_emb_height": 4096}, "`init_pos_emb_height`"),
        ({"merge_kernel_size": 2}, "`merge_kernel_size`"),
        ({"merge_kernel_size": [2, 0]}, "`merge_kernel_size"),
        ({"rope_parameters": {"rope_theta": 5.0}}, "rope_theta"),
        ({"rope_parameters": [1]}, "rope_parameters"),
    ],
)
def test_configurations_that_the_tower_does_not_have_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="vision_config") as caught:
        parse_vision({"vision_config": {**TINY_VISION, **changes}})
    assert message in str(caught.value)


def test_no_vision_config_is_named() -> None:
    with pytest.raises(ConfigError, match="no vision_config"):
        parse_vision({})


def test_rules_of_a_checkpoint_are_read(tmp_path: Path) -> None:
    assert read_image_rules(tmp_path) == ImageRules()
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"media_proc_cfg": {"in_patch_limit": 99, "sample_fps": 2.0, "image_std": [1, 1, 1]}}))
    assert read_image_rules(tmp_path) == ImageRules(in_patch_limit=99, image_std=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fixed_output_tokens", 64),
        ("in_patch_limit", 0),
        ("patch_size", "14"),
        ("image_std", [0.5, 0.0, 0.5]),
        ("image_mean", [0.5]),
        ("merge_kernel_size", 3),
    ],
)
def test_rules_that_make_no_sense_are_named(tmp_path: Path, field: str, value: Any) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"media_proc_cfg": {field: value}}))
    with pytest.raises(ConfigError, match=f"media_proc_cfg: .*{field}"):
        read_image_rules(tmp_path)
