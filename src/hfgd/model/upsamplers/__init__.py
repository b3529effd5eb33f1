"""Upsamplers: (skips at strides 4, 8, 16; high at 32) → the fine feature (B, D, H/s, W/s).

A new one is its own file and one line in ``UPSAMPLERS``.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from hfgd.errors import HfgdError
from hfgd.model.parts import UpsamplerSite
from hfgd.model.upsamplers.deeplabv3plus import DeepLabV3Plus
from hfgd.model.upsamplers.fapn import FaPN
from hfgd.model.upsamplers.none import NoUpsampler
from hfgd.model.upsamplers.sfpn import SFPN
from hfgd.model.upsamplers.simple_pyramid import STRIDES, Lifted, is_coarse, lift
from hfgd.model.upsamplers.smp import SMP, make_smp
from hfgd.model.upsamplers.upernet import UPerNet

if TYPE_CHECKING:
    from hfgd.model.backbones.base import Backbone

UPSAMPLERS: dict[str, Callable[[UpsamplerSite], nn.Module]] = {
    "none": lambda site: NoUpsampler(),
    "sfpn": lambda site: SFPN(site.skip_widths, site.width, site.grid),
    "u_sfpn": lambda site: SFPN(site.skip_widths, site.width, site.grid, 3, site.stride),
    "fapn": lambda site: FaPN(site.skip_widths, site.width, site.grid),
    "upernet": lambda site: UPerNet(site.skip_widths, site.width, site.grid),
    "deeplabv3plus": lambda site: DeepLabV3Plus(site.skip_widths[0], site.width, site.grid),
    **{name: partial(make_smp, name) for name in SMP},
}
READ = {"deeplabv3plus": 1}  # how many skips, from the finest on, where it is not all of them
RAW = ("none", "smp_dpt")  # take the skips of a plain ViT as they are


def make_upsampler(name: str, site: UpsamplerSite) -> nn.Module:
    """The upsampler of a name, on skips at strides 4, 8 and 16; those of a ViT are brought there first.

    Raises HfgdError for a stride that it does not reach, and for maps that do not suit it.
    """
    ends = 2 if name == "smp_dpt" else 4
    if site.stride != ends and name not in ("u_sfpn", "none"):
        hint = "set stride: 2" if ends == 2 else "use 'u_sfpn' to reach stride 2"
        raise HfgdError(f"upsampler '{name}' ends at stride {ends}; {hint}.")
    if name in RAW or not is_coarse(site.strides):
        return UPSAMPLERS[name](site)
    levels, widths = lift(site.skip_widths, site.strides[:-1], READ.get(name, len(STRIDES)))
    finer = site._replace(skip_widths=widths, strides=(*STRIDES, site.strides[-1]))
    return Lifted(levels, UPSAMPLERS[name](finer))


def lifted(backbone: "Backbone", make: Callable[[tuple[int, ...]], nn.Module]) -> nn.Module:
    """A decoder of one's own, ``make(skip_widths)``, on skips at strides 4, 8, 16 of any backbone."""
    if not is_coarse(backbone.strides):
        return make(tuple(backbone.widths[:-1]))
    levels, widths = lift(backbone.widths[:-1], backbone.strides[:-1])
    return Lifted(levels, make(widths))


__all__ = ["UPSAMPLERS", "UpsamplerSite", "lifted", "make_upsampler"]
