"""``identity``: no extra encoding, the basic FCN head (paper Table 1 caption)."""

from torch import Tensor, nn

from hfgd.model.blocks import ConvBnRelu
from hfgd.model.parts import Encoded


class Identity(nn.Module):
    """CBR(512, 3) → CBR(D, 1): (B, C_4, h, w) → (B, D, h, w)."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(ConvBnRelu(in_width, 512, 3), ConvBnRelu(512, width, 1))

    def forward(self, top: Tensor) -> Encoded:
        return Encoded(high=self.layers(top))
