"""Axial attention: the layer between the upsampler and the class tokens (paper §3.1, [15, 19, 44]).

Open in the paper, decided here: four heads; q, k and v are 1×1 convolutions with bias at full
width; scaled; first along the columns, then along the rows on that result, both from the same
q and k; no norm, no output projection, no position code. The residual x + AA(x) is the caller's.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class AxialAttention(nn.Module):
    """(B, C, H, W) → (B, C, H, W). ``width`` must be divisible by ``heads``."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Conv2d(width, width, 1)
        self.key = nn.Conv2d(width, width, 1)
        self.value = nn.Conv2d(width, width, 1)

    def init_weights(self) -> None:
        self.key.load_state_dict(self.query.state_dict())  # as in SelfAttention

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        return axial_attention(query, key, value, self.heads)


def axial_attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention along columns, then along rows; all maps (B, C, H, W), scale 1/√(C / heads)."""
    batch, width, height, columns = value.shape
    q, k, v = (
        x.reshape(batch, heads, width // heads, height, columns).permute(0, 1, 4, 3, 2)
        for x in (query, key, value)
    )  # (B, heads, W, H, d): every column is a sequence over H
    v = F.scaled_dot_product_attention(q, k, v)
    q, k, v = (x.transpose(2, 3) for x in (q, k, v))  # (B, heads, H, W, d): every row over W
    v = F.scaled_dot_product_attention(q, k, v)
    return v.permute(0, 1, 4, 2, 3).reshape(batch, width, height, columns)
