"""``aspp``: atrous spatial pyramid pooling [3–5] (paper §3.2, Table 1).

Image pooling, a 1×1 and three dilated 3×3 convolutions, each CBR(256), concatenated → CBR(D, 1).
The rates are (3, 6, 9) at stride 32 and grow as the stride shrinks: 12, 24, 36 at stride 8.
"""

import torch
from torch import Tensor, nn

from hfgd.model.blocks import ConvBnRelu, PooledConvBnRelu
from hfgd.model.parts import Encoded
from hfgd.types import COARSEST

RATES = (3, 6, 9)  # at stride 32


class ASPP(nn.Module):
    """(B, C_4, h, w) → (B, D, h, w)."""

    BRANCH_WIDTH = 256

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        branch = self.BRANCH_WIDTH
        self.rates = tuple(rate * COARSEST // stride for rate in RATES)
        self.image = PooledConvBnRelu(in_width, branch, 1)
        self.point = ConvBnRelu(in_width, branch, 1)
        self.dilated = nn.ModuleList(ConvBnRelu(in_width, branch, 3, rate) for rate in self.rates)
        self.end = ConvBnRelu(branch * (2 + len(RATES)), width, 1)

    def forward(self, top: Tensor) -> Encoded:
        pooled = self.image(top.mean((2, 3), keepdim=True)).expand(-1, -1, *top.shape[-2:])
        branches = [pooled, self.point(top), *(conv(top) for conv in self.dilated)]
        return Encoded(high=self.end(torch.cat(branches, dim=1)))
