"""Kimi K2.5's vision tower (MoonViT) and the projector to the text model's width."""

from .config import VisionConfig, parse_vision
from .model import MoonViT
from .weights import PREFIXES, vision_entries

__all__ = ["PREFIXES", "MoonViT", "VisionConfig", "parse_vision", "vision_entries"]
