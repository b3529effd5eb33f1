"""Upsamplers: (skips at strides 4, 8, 16; high at 32) → the fine feature (B, D, H/s, W/s).

A new one is its own file and one line in ``UPSAMPLERS``.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from hfgd.errors import HfgdError
from hfgd.geometry import Grid
from hfgd.model.upsamplers.deeplabv3plus import DeepLabV3Plus
from hfgd.model.upsamplers.fapn import FaPN
from hfgd.model.upsamplers.none import NoUpsampler
from hfgd.model.upsamplers.sfpn import SFPN
from hfgd.model.upsamplers.upernet import UPerNet


class UpsamplerSite(NamedTuple):
    """Where an upsampler stands: the widths of the three skips, the width out, its stride."""

    skip_widths: tuple[int, ...]
    width: int
    stride: int
    grid: Grid


UPSAMPLERS: dict[str, Callable[[UpsamplerSite], nn.Module]] = {
    "none": lambda site: NoUpsampler(),
    "sfpn": lambda site: SFPN(site.skip_widths, site.width, site.grid),
    "u_sfpn": lambda site: SFPN(site.skip_widths, site.width, site.grid, 3, site.stride),
    "fapn": lambda site: FaPN(site.skip_widths, site.width, site.grid),
    "upernet": lambda site: UPerNet(site.skip_widths, site.width, site.grid),
    "deeplabv3plus": lambda site: DeepLabV3Plus(site.skip_widths[0], site.width, site.grid),
}


def make_upsampler(name: str, site: UpsamplerSite) -> nn.Module:
    """The upsampler of a name; raises HfgdError for a stride that it does not reach."""
    if site.stride != 4 and name not in ("u_sfpn", "none"):
        raise HfgdError(f"upsampler '{name}' ends at stride 4; use 'u_sfpn' to reach stride 2.")
    return UPSAMPLERS[name](site)


__all__ = ["UPSAMPLERS", "UpsamplerSite", "make_upsampler"]
