"""Backbones: an image → four maps, fine to coarse. A new kind is its own file and one line here."""

from collections.abc import Callable
from typing import Any

from hfgd.errors import HfgdError
from hfgd.model.backbones.base import Backbone
from hfgd.model.backbones.timm_pyramid import TimmPyramid
from hfgd.model.backbones.vit_pyramid import VitPyramid, is_vit

BACKBONES: dict[str, Callable[..., Backbone]] = {"timm": TimmPyramid, "vit": VitPyramid}


def make_backbone(**spec: Any) -> Backbone:
    """The backbone of a BackboneSpec's values; raises HfgdError for what cannot be built."""
    if is_vit(str(spec.get("name"))):
        return BACKBONES["vit"](**spec)
    blocks = spec.pop("skip_blocks", None)
    if blocks is not None:
        raise HfgdError(
            f"model.backbone.skip_blocks chooses blocks of a ViT, and '{spec.get('name')}' is none; "
            "leave it out."
        )
    return BACKBONES["timm"](**spec)


__all__ = ["BACKBONES", "Backbone", "TimmPyramid", "VitPyramid", "make_backbone"]
