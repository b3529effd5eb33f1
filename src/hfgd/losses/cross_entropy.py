"""Cross-entropy of an upsampled map that never exists at its full size.

Full-size logits are what fills a card: 16 × 171 × 513 × 513 floats are 2.9 GB, and the obvious code
holds them several times. Bilinear upsampling is two small matrices, ``rows @ map @ columnsᵀ``, so a
band of the image's rows is made, used and forgotten, band by band. The gradient of a band is known as
soon as its softmax is, and is brought back to the map's own size with the same matrices, transposed;
nothing is kept for the backward pass but that.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hfgd.geometry import Frame
from hfgd.resample import bands


def cross_entropy_sum(
    logits: Tensor, label: Tensor, weight: Tensor, frame: Frame, band: int | None = None
) -> Tensor:
    """Σ over pixels of ``weight`` · cross-entropy of the upsampled logits, a scalar in fp32.

    ``logits`` (B, K, h, w) lie over the padded image; ``label`` (B, H, W), uint8 or int64, in 0..K−1
    wherever ``weight`` (B, H, W) is not zero. Gradients reach the logits alone, once. ``band``:
    values of a band; what suits the device without it.
    """
    with torch.autocast(logits.device.type, enabled=False):
        total: Tensor = _CrossEntropySum.apply(logits.float(), label, weight, frame, band)
    return total


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label: Tensor, weight: Tensor, frame: Frame, band: int | None
    ) -> Tensor:
        total = logits.new_zeros(())
        needed = ctx.needs_input_grad[0]
        grad = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        for rows, source, vertical, horizontal, z in bands(logits, frame, band):
            share = weight[:, None, rows]  # (B, 1, rows, W)
            target = label[:, None, rows].long().masked_fill(share == 0, 0)
            z = torch.log_softmax(z, dim=1)
            total = total - (z.gather(1, target) * share).sum()
            if needed:
                z = z.exp_().scatter_add_(1, target, -torch.ones_like(share)).mul_(share)
                grad[:, :, source] += (vertical.t() @ z) @ horizontal
            del z
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        (grad,) = ctx.saved_tensors
        return grad * upstream, None, None, None, None
