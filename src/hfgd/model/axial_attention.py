"""Axial attention: the layer between the upsampler and the class tokens (paper §3.1, [15, 19, 44]).

Open in the paper, decided here: four heads; q, k and v are 1×1 convolutions with bias at full
width; scaled; first along the columns, then along the rows on that result, both from the same
q and k; no norm, no output projection, no position code. The residual x + AA(x) is the caller's.
"""

import torch
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
    # the fused kernels take four axes; columns and heads fold into one, with channels last for free
    q, k, v = (
        x.permute(0, 2, 3, 1).reshape(batch, height, columns * heads, width // heads)
        for x in (query, key, value)
    )
    v = _attend(q, k, v)  # every head of every column is a sequence over H
    q, k, v = (x.reshape(batch * height, columns, heads, width // heads) for x in (q, k, v))
    v = _attend(q, k, v)  # every row is a batch of its own, a sequence over W
    return v.reshape(batch, height, columns, width).permute(0, 3, 1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over axis 1 of (batch, sequence, heads, d)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if q.device.type == "cpu" and torch.is_grad_enabled():
        # the CPU's fused kernel has a slow backward pass: see benchmarks/training.md
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        mixed: Tensor = scores.softmax(-1) @ v
        return mixed.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
