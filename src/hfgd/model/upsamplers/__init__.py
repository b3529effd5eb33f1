"""Upsamplers: (skips at strides 4, 8, 16; high at 32) → the fine feature (B, D, H/s, W/s).

A new one is its own file and one line in ``UPSAMPLERS``.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from hfgd.errors import HfgdError
from hfgd.geometry import Grid
from hfgd.model.upsamplers.none import NoUpsampler
from hfgd.model.upsamplers.sfpn import SFPN


class UpsamplerSite(NamedTuple):
    """Where an upsampler stands: the widths of the three skips, the width out, its stride."""

    skip_widths: tuple[int, ...]
    width: int
    stride: int
    grid: Grid


def _sfpn(site: UpsamplerSite) -> SFPN:
    if site.stride != 4:
        raise HfgdError("upsampler 'sfpn' ends at stride 4; use 'u_sfpn' to reach stride 2.")
    return SFPN(site.skip_widths, site.width, site.grid)


def _u_sfpn(site: UpsamplerSite) -> SFPN:
    return SFPN(site.skip_widths, site.width, site.grid, lateral_kernel=3, stride=site.stride)


UPSAMPLERS: dict[str, Callable[[UpsamplerSite], nn.Module]] = {
    "none": lambda site: NoUpsampler(),
    "sfpn": _sfpn,
    "u_sfpn": _u_sfpn,
}

__all__ = ["UPSAMPLERS", "UpsamplerSite"]
