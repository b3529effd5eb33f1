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

from hfgd.losses.target import Target
from hfgd.resample import bands
from hfgd.types import Frame


def cross_entropy_sum(
    logits: Tensor,
    label: Tensor,
    weight: Tensor,
    frame: Frame,
    band: int | None = None,
    smoothing: float = 0.0,
    spread: Tensor | None = None,
    classes: Tensor | None = None,
) -> Tensor:
    """Σ over pixels of ``weight`` · cross-entropy of the upsampled logits, a scalar in fp32.

    ``logits`` (B, K, h, w) lie over the padded image; ``label`` (B, H, W), uint8 or int64, in 0..K−1
    wherever ``weight`` (B, H, W) is not zero. Gradients reach the logits alone, once. ``band``:
    values of a band; what suits the device without it.

    ``smoothing``: that share of every label is spread evenly over all classes, each by its weight in
    ``classes`` (K,), as PyTorch does; ``spread`` (B, H, W): 1 where there is a label.
    """
    with torch.autocast(logits.device.type, enabled=False):
        if smoothing and spread is not None:
            extra = (smoothing, spread, classes)
            smooth: Tensor = _SmoothedSum.apply(logits.float(), label, weight, frame, band, *extra)
            return smooth
        total: Tensor = _CrossEntropySum.apply(logits.float(), label, weight, frame, band)
    return total


def cross_entropy(logits: Tensor, target: Target, factor: float) -> Tensor:
    """``factor`` · the mean over pixels."""
    smoothing = target.spec.label_smoothing
    total = cross_entropy_sum(
        logits,
        target.label,
        target.weight,
        target.frame,
        smoothing=smoothing,
        spread=target.valid if smoothing else None,
        classes=target.classes,
    )
    return factor * total / target.counted


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


class _SmoothedSum(torch.autograd.Function):
    """The same with smoothed labels: a pixel's own class has 1 − ε, and every class ε / K."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        label: Tensor,
        weight: Tensor,
        frame: Frame,
        band: int | None,
        smoothing: float,
        spread: Tensor,
        classes: Tensor | None,
    ) -> Tensor:
        total = logits.new_zeros(())
        grad = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        count = logits.shape[1]
        classes = logits.new_ones(count) if classes is None else classes
        for rows, source, vertical, horizontal, z in bands(logits, frame, band):
            own = (1 - smoothing) * weight[:, None, rows]  # (B, 1, rows, W)
            every = smoothing / count * spread[:, None, rows]
            target = label[:, None, rows].long().masked_fill(spread[:, None, rows] == 0, 0)
            z = torch.log_softmax(z, dim=1)
            total = total - (z.gather(1, target) * own).sum()
            total = total - ((classes @ z.flatten(2)).view_as(every) * every).sum()
            z = z.exp_().mul_(own + every * classes.sum()).scatter_add_(1, target, -own)
            z = z.addcmul_(classes[:, None, None], every, value=-1)
            grad[:, :, source] += (vertical.t() @ z) @ horizontal
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        (grad,) = ctx.saved_tensors
        return grad * upstream, None, None, None, None, None, None, None
