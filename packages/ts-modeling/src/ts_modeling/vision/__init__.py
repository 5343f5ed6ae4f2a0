"""Around a vision tower: images to patches, patches to batches, features to rows of a prompt."""

from .batch import MOST_PATCHES, MOST_SIDE, TowerShape, VisionBatch, pack
from .images import ImageRules, Patches, image_patches, media_tokens, read_image_rules, video_patches
from .media import MediaRows, place_media

__all__ = [
    "MOST_PATCHES",
    "MOST_SIDE",
    "ImageRules",
    "MediaRows",
    "Patches",
    "TowerShape",
    "VisionBatch",
    "image_patches",
    "media_tokens",
    "pack",
    "place_media",
    "read_image_rules",
    "video_patches",
]
