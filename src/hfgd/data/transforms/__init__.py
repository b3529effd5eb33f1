"""Augmentation: operations that first draw, then apply; a family of them in each file."""

from hfgd.data.transforms.colours import Colours, scale_saturation
from hfgd.data.transforms.pipeline import Augment
from hfgd.data.transforms.quality import to_bytes
from hfgd.data.transforms.spec import AugmentSpec

__all__ = ["Augment", "AugmentSpec", "Colours", "scale_saturation", "to_bytes"]
