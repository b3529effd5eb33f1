"""``ppm``: the pyramid pooling module [61], UPerNet's context (paper §3.2, Table 8).

Average pools of 1, 2, 3 and 6 bins a side, each → CBR(512, 1) → resized, concatenated with the
input → CBR(D, 3).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfgd.model.blocks import ConvBnRelu, PooledConvBnRelu
from hfgd.model.parts import Encoded
from hfgd.resample import resize
from hfgd.types import Grid

BINS = (1, 2, 3, 6)


class PPM(nn.Module):
    """(B, C_4, h, w) → (B, D, h, w)."""

    BRANCH_WIDTH = 512

    def __init__(self, in_width: int, width: int, grid: Grid) -> None:
        super().__init__()
        branch = self.BRANCH_WIDTH
        self.pools = nn.ModuleList(PooledConvBnRelu(in_width, branch, 1) for _ in BINS)
        self.end = ConvBnRelu(in_width + branch * len(BINS), width, 3)
        self.grid = grid

    def forward(self, top: Tensor) -> Encoded:
        size = (top.shape[-2], top.shape[-1])
        maps = [top]
        for bins, conv in zip(BINS, self.pools, strict=True):
            maps.append(resize(conv(pooled(top, bins)), size, self.grid))
        return Encoded(high=self.end(torch.cat(maps, dim=1)))


def pooled(x: Tensor, bins: int) -> Tensor:
    """(B, C, h, w) averaged into (B, C, bins, bins); bins overlap where a side does not divide."""
    if torch.compiler.is_exporting():
        # exporters turn the pool into tables for the traced size; two products follow the size
        rows, columns = (_means(x.shape[i], bins, x) for i in (-2, -1))
        return rows @ x @ columns.t()
    return F.adaptive_avg_pool2d(x, bins)


def _means(side: int, bins: int, like: Tensor) -> Tensor:
    """The matrix (bins, side) that averages the samples of each bin."""
    i = torch.arange(bins, device=like.device)[:, None]
    first, last = i * side // bins, ((i + 1) * side + bins - 1) // bins
    j = torch.arange(side, device=like.device)
    inside = ((j >= first) & (j < last)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)
