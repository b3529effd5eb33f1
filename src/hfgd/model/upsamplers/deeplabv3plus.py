"""``deeplabv3plus``: DeepLabV3+'s decoder, on the ``aspp`` encoder (paper §5.5, Table 8).

The stride-4 skip → CBR(48, 1), concatenated with the resized encoder output → 2 × CBR(D, 3). The
paper's row dilates the backbone to stride 8; the table's "D8 … (OS=4)" is read as that backbone
with this decoder's stride 4.
"""

import torch
from torch import Tensor, nn

from hfgd.model.blocks import ConvBnRelu
from hfgd.resample import resize
from hfgd.types import Grid


class DeepLabV3Plus(nn.Module):
    """The finest skip (stride 4) and high (B, D, h, w) → (B, D, H/4, W/4)."""

    LOW_WIDTH = 48

    def __init__(self, skip_width: int, width: int, grid: Grid) -> None:
        super().__init__()
        self.low = ConvBnRelu(skip_width, self.LOW_WIDTH, 1)
        self.refine = nn.Sequential(
            ConvBnRelu(width + self.LOW_WIDTH, width, 3), ConvBnRelu(width, width, 3)
        )
        self.grid = grid

    def forward(self, skips: list[Tensor], high: Tensor) -> Tensor:
        low = self.low(skips[0])
        up = resize(high, (low.shape[-2], low.shape[-1]), self.grid)
        fine: Tensor = self.refine(torch.cat([low, up], dim=1))
        return fine
