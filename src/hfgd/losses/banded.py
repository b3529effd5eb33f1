"""Pixel losses and class sums of upsampled logits that never exist at their full size.

Both are needed whole before their gradient is known (a threshold over all pixels, a ratio of sums), so
bands are made twice: once for the values, once for the gradient. Of the first time one number a pixel
is kept, the logarithm of the softmax's denominator. As in cross_entropy.py, a band is two small
matrices; the second one, which mostly holds zeros, is applied in blocks of columns.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hfgd.resample import band_values, matrix_table, sources
from hfgd.types import Frame, Grid

BLOCK = 96  # columns of the image


def pixel_losses(logits: Tensor, label: Tensor, frame: Frame, band: int | None = None) -> Tensor:
    """−log p of the labelled class at every pixel, (B, H, W) fp32; anything where there is no label.

    ``logits`` (B, K, h, w) lie over the padded image; ``label`` (B, H, W) holds any value in place of
    a class where its loss is not used. Gradients reach the logits, once.
    """
    with torch.autocast(logits.device.type, enabled=False):
        losses: Tensor = _PixelLosses.apply(logits.float(), label, frame, band)
    return losses


def class_sums(
    logits: Tensor, label: Tensor, weight: Tensor, frame: Frame, band: int | None = None
) -> tuple[Tensor, Tensor]:
    """Sums of ``weight`` (B, H, W) · p over the pixels, by class (K,): over its own ones, over all.

    Of this process only. Gradients reach the logits, once.
    """
    with torch.autocast(logits.device.type, enabled=False):
        own, every = _ClassSums.apply(logits.float(), label, weight, frame, band)
    return own, every


class _PixelLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, label: Tensor, frame: Frame, band: int | None) -> Tensor:
        losses, log_sums = (logits.new_empty(label.shape) for _ in range(2))
        for part in upsampled(logits, frame, band):
            target = classes_of(label[:, part.rows], logits.shape[1])
            at = part.values.gather(1, target)
            logp = torch.log_softmax(part.values, dim=1).gather(1, target)
            losses[:, part.rows] = -logp[:, 0]
            log_sums[:, part.rows] = (at - logp)[:, 0]
        ctx.save_for_backward(logits, label, log_sums)
        ctx.where = frame, band
        return losses.clamp_(min=0)  # never −0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        logits, label, log_sums = ctx.saved_tensors
        grad = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        for part, p in probabilities(logits, log_sums, *ctx.where):
            share = upstream[:, None, part.rows]
            target = classes_of(label[:, part.rows], logits.shape[1])
            part.bring_back(p.mul_(share).scatter_add_(1, target, -share), grad)
        return grad, None, None, None


class _ClassSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label: Tensor, weight: Tensor, frame: Frame, band: int | None
    ) -> tuple[Tensor, Tensor]:
        own, every = (logits.new_zeros(logits.shape[1]) for _ in range(2))
        log_sums = logits.new_empty(label.shape)
        for part in upsampled(logits, frame, band):
            share = weight[:, None, part.rows]
            target = classes_of(label[:, part.rows], logits.shape[1])
            at = part.values.gather(1, target)
            p = torch.log_softmax(part.values, dim=1)
            log_sums[:, part.rows] = (at - p.gather(1, target))[:, 0]
            p = p.exp_().mul_(share)
            own += _by_class(p.gather(1, target), target, len(own))
            every += p.sum((0, 2, 3))
        ctx.save_for_backward(logits, label, weight, log_sums)
        ctx.where = frame, band
        return own, every

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_own: Tensor, to_every: Tensor) -> Any:
        logits, label, weight, log_sums = ctx.saved_tensors
        grad = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        for part, p in probabilities(logits, log_sums, *ctx.where):
            share = weight[:, None, part.rows]
            target = classes_of(label[:, part.rows], logits.shape[1])
            at = p.gather(1, target) * to_own[target]  # (B, 1, rows, W)
            mean = (to_every @ p.flatten(2)).view_as(at) + at
            p.mul_((to_every[:, None, None] - mean).mul_(share))
            part.bring_back(p.scatter_add_(1, target, at * share), grad)
        return grad, None, None, None, None


class Band(NamedTuple):
    """Some of the image's rows: their upsampled logits (B, K, rows, W) and how they are made."""

    rows: slice
    values: Tensor
    source: slice
    vertical: Tensor
    columns: "tuple[Columns, ...]"

    def bring_back(self, gradient: Tensor, grad: Tensor) -> None:
        """Add the gradient of the band to that of the map, (B, K, h, w)."""
        lines = self.vertical.t() @ gradient
        for columns in self.columns:
            grad[:, :, self.source, columns.source] += lines[..., columns.image] @ columns.matrix


class Columns(NamedTuple):
    """A block of the image's columns, the map's columns that it is made of, and the matrix."""

    image: slice
    source: slice
    matrix: Tensor


def upsampled(logits: Tensor, frame: Frame, band: int | None = None) -> Iterator[Band]:
    """The upsampled logits, band by band; ``band``: its values, what suits the device without it."""
    (height, width), (padded_height, padded_width), grid = frame
    batch, classes, h, w = logits.shape
    blocks = _columns(grid, w, padded_width, width, logits.device)
    whole = matrix_table(grid, h, padded_height, height, logits.device)
    count = max(1, (band or band_values(logits.device)) // (batch * classes * width))
    for start in range(0, height, count):
        rows = slice(start, min(start + count, height))
        source = sources(grid, h, padded_height, rows)
        vertical = whole[rows, source]
        lines = logits.new_empty(batch, classes, source.stop - source.start, width)
        for columns in blocks:
            lines[..., columns.image] = logits[:, :, source, columns.source] @ columns.matrix.t()
        yield Band(rows, vertical @ lines, source, vertical, blocks)


def probabilities(
    logits: Tensor, log_sums: Tensor, frame: Frame, band: int | None = None
) -> Iterator[tuple[Band, Tensor]]:
    """Bands, and their softmax from the kept logarithms of its denominators, in place."""
    for part in upsampled(logits, frame, band):
        yield part, part.values.sub_(log_sums[:, None, part.rows]).exp_()


def classes_of(label: Tensor, num_classes: int) -> Tensor:
    """Labels (B, rows, W) → class indices (B, 1, rows, W) int64; class 0 where there is none."""
    label = label[:, None].long()
    return label.masked_fill((label < 0) | (label >= num_classes), 0)


def _by_class(values: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Sums (K,) of ``values`` (B, 1, rows, W) by class: first within each row, then over the rows.

    One fp32 sum over millions of pixels is some percent off; fp64 does not exist on every device.
    """
    lines = values.new_zeros(values.shape[0] * values.shape[2], num_classes)
    width = values.shape[-1]
    return lines.scatter_add_(1, target.reshape(-1, width), values.reshape(-1, width)).sum(0)


def _columns(
    grid: Grid, n_in: int, n_out: int, stop: int, device: torch.device
) -> tuple[Columns, ...]:
    whole = matrix_table(grid, n_in, n_out, stop, device)
    parts = [slice(start, min(start + BLOCK, stop)) for start in range(0, stop, BLOCK)]
    reach = [sources(grid, n_in, n_out, part) for part in parts]
    return tuple(Columns(p, s, whole[p, s]) for p, s in zip(parts, reach, strict=True))
