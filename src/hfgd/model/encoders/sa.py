"""``sa`` and ``sa_car``: full self-attention [9, 43, 46], without and with CAR [18] (Tables 1, 4).

``sa``: CBR(512, 3) → x + SA(x) → CBR(D, 3).
``sa_car``: CBR(512, 3) → x + SA(x) → a linear 1×1 layer of 512, regularised → CBR(D, 1): CAR
replaces the trailing 3×3 convolution, so that neighbours are not mixed after regularising.
"""

from torch import Tensor, nn

from hfgd.model.blocks import ConvBnRelu, SelfAttention
from hfgd.model.parts import Encoded


class SA(nn.Module):
    """(B, C_4, h, w) → (B, D, h, w)."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.reduce = ConvBnRelu(in_width, 512, 3)
        self.attention = SelfAttention(512)
        self.end = ConvBnRelu(512, width, 3)

    def forward(self, top: Tensor) -> Encoded:
        return Encoded(high=self.end(self.attention(self.reduce(top))))


class SACAR(nn.Module):
    """(B, C_4, h, w) → (B, D, h, w); hands out the 512-d features that CAR regularises."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.reduce = ConvBnRelu(in_width, 512, 3)
        self.attention = SelfAttention(512)
        self.car_linear = nn.Conv2d(512, 512, 1)
        self.end = ConvBnRelu(512, width, 1)

    def forward(self, top: Tensor) -> Encoded:
        regularised = self.car_linear(self.attention(self.reduce(top)))
        return Encoded(high=self.end(regularised), regularised=regularised)
