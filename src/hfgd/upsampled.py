"""Cross-entropy and labels of an upsampled map that never exists at its full size.

Full-size logits are what fills a card: 16 × 171 × 513 × 513 floats are 2.9 GB, and the obvious code
holds them several times. Bilinear upsampling is two small matrices, ``rows @ map @ columnsᵀ``, so a
band of the image's rows is made, used and forgotten, band by band. The gradient of a band is known as
soon as its softmax is, and is brought back to the map's own size with the same matrices, transposed;
nothing is kept for the backward pass but that.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hfgd.geometry import Frame

# values of a band: on a CPU what its caches hold, elsewhere few and large kernels (16 and 128 MiB)
BAND_CPU, BAND = 1 << 22, 1 << 25


def cross_entropy_sum(
    logits: Tensor, label: Tensor, weight: Tensor, frame: Frame, band: int | None = None
) -> Tensor:
    """Σ over pixels of ``weight`` · cross-entropy of the upsampled logits, a scalar in fp32.

    ``logits`` (B, K, h, w) lie over the padded image; ``label`` (B, H, W) int64 in 0..K−1 wherever
    ``weight`` (B, H, W) is not zero. Gradients reach the logits alone, once. ``band``: values of a
    band; what suits the device without it.
    """
    with torch.autocast(logits.device.type, enabled=False):
        total: Tensor = _CrossEntropySum.apply(logits.float(), label, weight, frame, band)
    return total


def labels(logits: Tensor, frame: Frame, band: int | None = None) -> Tensor:
    """The best class of every pixel of the image, (B, H, W) uint8, from ``logits`` (B, K, h, w)."""
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        parts = [z.argmax(1).to(torch.uint8) for *_, z in _bands(logits.float(), frame, band)]
        return torch.cat(parts, dim=1)


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label: Tensor, weight: Tensor, frame: Frame, band: int | None
    ) -> Tensor:
        total = logits.new_zeros(())
        needed = ctx.needs_input_grad[0]
        grad = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        for rows, source, vertical, horizontal, z in _bands(logits, frame, band):
            target = label[:, None, rows]  # (B, 1, rows, W)
            share = weight[:, None, rows]
            target = torch.where(share == 0, 0, target)
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


def _bands(
    logits: Tensor, frame: Frame, band: int | None
) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor]]:
    """Bands of the image's rows: rows, the map's rows below them, both matrices, upsampled logits.

    With ``vertical`` (rows, source) and ``horizontal`` (W, w) the logits (B, K, rows, W) are
    ``vertical @ logits[:, :, source] @ horizontalᵀ``.
    """
    (height, width), (padded_height, padded_width), grid = frame
    batch, classes, h, w = logits.shape
    device = logits.device
    horizontal = grid.bilinear(w, padded_width, slice(0, width), device)
    whole = grid.bilinear(h, padded_height, slice(0, height), device)
    band = band or (BAND_CPU if device.type == "cpu" else BAND)
    count = max(1, band // (batch * classes * width))
    for start in range(0, height, count):
        rows = slice(start, min(start + count, height))
        source = grid.sources(h, padded_height, rows)
        vertical = whole[rows, source]
        yield rows, source, vertical, horizontal, vertical @ (logits[:, :, source] @ horizontal.t())
