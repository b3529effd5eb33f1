"""The layers that every part is made of."""

from typing import Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn


@runtime_checkable
class StartsItself(Protocol):
    """A layer that sets some of its weights itself, after the common initialisation."""

    def init_weights(self) -> None:
        """Set them."""


class ConvBnRelu(nn.Sequential):
    """``CBR(width, kernel)``: convolution without bias, batch norm, ReLU; the size is kept."""

    def __init__(self, in_width: int, width: int, kernel: int, dilation: int = 1) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.Conv2d(in_width, width, kernel, padding=padding, dilation=dilation, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )


class PooledConvBnRelu(ConvBnRelu):
    """CBR for a map pooled to few pixels: also trains on a single one (batch 1, one bin).

    Batch norm refuses statistics of one value; the value twice has the same mean and variance.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            x = x.expand(2, -1, -1, -1)
            return super().forward(x)[:1]  # type: ignore[no-any-return, no-untyped-call]
        return super().forward(x)  # type: ignore[no-any-return, no-untyped-call]


class SelfAttention(nn.Module):
    """Full self-attention over all pixels, added to its input: x + SA(x) (paper §3.2, [9, 43, 46]).

    Queries and keys have 64 channels, values the full width; one head, no scale, no output
    projection. Query and key start from the same weights, as in the authors' CAR code, so that
    at first a pixel attends to what resembles it.
    """

    def __init__(self, width: int, key_width: int = 64) -> None:
        super().__init__()
        self.query = nn.Conv2d(width, key_width, 1)
        self.key = nn.Conv2d(width, key_width, 1)
        self.value = nn.Conv2d(width, width, 1)

    def init_weights(self) -> None:
        self.key.load_state_dict(self.query.state_dict())

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> (B, C, h, w)
        query, key, value = (
            layer(x).flatten(2).transpose(1, 2)[:, None]
            for layer in (self.query, self.key, self.value)
        )  # (B, 1, h·w, ·): the fused kernels take four axes
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + attended[:, 0].transpose(1, 2).reshape(x.shape)


def init_new_layers(module: nn.Module) -> None:
    """Glorot-uniform weights and zero biases for every convolution, as in the authors' code."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for part in module.modules():  # after the loop above: these start from the values it drew
        if isinstance(part, StartsItself):
            part.init_weights()
