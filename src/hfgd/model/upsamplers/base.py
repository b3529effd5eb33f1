"""What an upsampler is told when it is built."""

from typing import NamedTuple

from hfgd.geometry import Grid


class UpsamplerSite(NamedTuple):
    """Where an upsampler stands: the widths of the three skips, the width out, its stride.

    ``strides``: of the skips, and of ``high`` as the last one.
    """

    skip_widths: tuple[int, ...]
    width: int
    stride: int
    grid: Grid
    strides: tuple[int, ...] = (4, 8, 16, 32)
