"""Backbones: an image → four maps, fine to coarse. A new kind is its own file and one line here."""

from collections.abc import Callable
from typing import Any

from hfgd.model.backbones.base import Backbone
from hfgd.model.backbones.timm_pyramid import TimmPyramid

BACKBONES: dict[str, Callable[..., Backbone]] = {"timm": TimmPyramid}


def make_backbone(**spec: Any) -> Backbone:
    """The backbone of a BackboneSpec's values; raises HfgdError for what cannot be built."""
    return BACKBONES["timm"](**spec)


__all__ = ["BACKBONES", "Backbone", "TimmPyramid", "make_backbone"]
