"""``upernet``: UPerNet's FPN and fusion [47], on the ``ppm`` encoder (paper §5.5, Table 8).

Laterals CBR(D, 1) and top-down addition; CBR(D, 3) on strides 4, 8 and 16; all four levels,
resized to stride 4, are concatenated → CBR(D, 3). The paper does not state its width; under HFGM
it must be the width of the class tokens, so it is D throughout.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hfgd.model.blocks import ConvBnRelu
from hfgd.model.upsamplers.sfpn import top_down
from hfgd.resample import resize
from hfgd.types import Grid


class UPerNet(nn.Module):
    """Skips at strides 4, 8, 16 and high (B, D, h, w), the pooled map → (B, D, H/4, W/4)."""

    def __init__(self, skip_widths: Sequence[int], width: int, grid: Grid) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(ConvBnRelu(c, width, 1) for c in skip_widths)
        self.smooth = nn.ModuleList(ConvBnRelu(width, width, 3) for _ in skip_widths)
        self.fuse = ConvBnRelu(width * (len(skip_widths) + 1), width, 3)
        self.grid = grid

    def forward(self, skips: list[Tensor], high: Tensor) -> Tensor:
        *fine, pooled = top_down(self.laterals, skips, high, self.grid)
        levels = [conv(x) for conv, x in zip(self.smooth, fine, strict=True)] + [pooled]
        size = (levels[0].shape[-2], levels[0].shape[-1])
        fused: Tensor = self.fuse(torch.cat([resize(x, size, self.grid) for x in levels], dim=1))
        return fused
