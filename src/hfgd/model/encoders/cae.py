"""``cae``: the context augmentation encoder (paper §3.2).

Stated: a wide linear layer of 2048 channels, a linear layer to 512, self-attention regularised
by CAR, a trailing convolution of 256. Decided here: both linear layers are 1×1 with batch norm
and ReLU, CAR acts on a linear layer of its own, the trailing convolution is 1×1.
"""

from torch import Tensor, nn

from hfgd.model.blocks import ConvBnRelu, SelfAttention
from hfgd.model.parts import Encoded


class CAE(nn.Module):
    """(B, C_4, h, w) → (B, D, h, w); hands out the 512-d features that CAR regularises."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.wide_linear = ConvBnRelu(in_width, 2048, 1)
        self.reduce = ConvBnRelu(2048, 512, 1)
        self.attention = SelfAttention(512)
        self.car_linear = nn.Conv2d(512, 512, 1)
        self.end = ConvBnRelu(512, width, 1)

    def forward(self, top: Tensor) -> Encoded:
        regularised = self.car_linear(self.attention(self.reduce(self.wide_linear(top))))
        return Encoded(high=self.end(regularised), regularised=regularised)
