"""Lovász-softmax: the convex surrogate of 1 − IoU [Berman et al., 2018], over the whole batch.

Every class's errors are sorted over all pixels of all processes, one class after the other: what it
needs is a handful of one-class maps at full size (about 40 bytes a pixel, of all processes), never one
of all classes, and the time of a sort for every class that occurs. It reads back which classes do, so
each step waits for the GPU once. The mean and the class weights are as for Dice.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from hfgd.losses.banded import probabilities, upsampled
from hfgd.losses.target import Target, pixels_of_classes
from hfgd.parallel.processes import joined
from hfgd.resample import matrix_table
from hfgd.types import Frame


def lovasz(logits: Tensor, target: Target, factor: float) -> Tensor:
    """``factor`` · the Lovász-softmax loss, in 0..1."""
    pixels = pixels_of_classes(target, logits.shape[1])
    share = (pixels > 0).float()
    if target.classes is not None:
        share = share * target.classes
    share = share / share.sum().clamp(min=1e-6)
    with torch.autocast(logits.device.type, enabled=False):
        loss: Tensor = _Lovasz.apply(
            logits.float(), target.label, target.valid, share, target.frame
        )
    return factor * loss


class _Lovasz(torch.autograd.Function):
    """Σ over classes of ``share`` (K,) · its loss; the gradient is computed with the value."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label: Tensor, valid: Tensor, share: Tensor, frame: Frame
    ) -> Tensor:
        total = logits.new_zeros(())
        grad = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        log_sums = _log_sums(logits, frame)
        (height, width), (padded_height, padded_width), grid = frame
        device = logits.device
        vertical = matrix_table(grid, logits.shape[2], padded_height, height, device)
        horizontal = matrix_table(grid, logits.shape[3], padded_width, width, device)
        mean = torch.zeros_like(log_sums)
        for k in share.nonzero().flatten().tolist():
            p = (vertical @ (logits[:, k] @ horizontal.t()) - log_sums).exp_()
            own = (label == k).float() * valid
            loss, slope = _class_loss((own - p).abs(), own, valid)
            total = total + share[k] * loss
            slope = share[k] * slope * (1 - 2 * own) * p  # the loss falls as p of its own rises
            grad[:, k] = vertical.t() @ slope @ horizontal
            mean += slope
        for part, p in probabilities(logits, log_sums, frame):
            part.bring_back(p.mul_(mean[:, None, part.rows]).neg_(), grad)
        # every process has the whole loss; the mean of their gradients shall be its gradient
        ctx.save_for_backward(grad * joined()[1])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        (grad,) = ctx.saved_tensors
        return grad * upstream, None, None, None, None


def _log_sums(logits: Tensor, frame: Frame) -> Tensor:
    """The logarithm of the softmax's denominator at every pixel, (B, H, W)."""
    return torch.cat([part.values.logsumexp(1) for part in upsampled(logits, frame)], dim=1)


def _class_loss(errors: Tensor, own: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """One class's loss and its slope at each error (B, H, W) of this process.

    ``own`` and ``valid`` (B, H, W) as 0 and 1. Errors of ignored pixels come last, as negative ones.
    """
    rank, world = joined()
    mine = torch.where(valid > 0, errors, -1.0).flatten()
    every, members = _everywhere(mine, world), _everywhere(own.flatten(), world)
    order = every.argsort(descending=True)
    steps = _jaccard_steps(members[order])
    slope = torch.empty_like(steps).scatter_(0, order, steps)
    loss = (every.clamp(min=0) * slope).sum()
    start = rank * len(mine)
    return loss, slope[start : start + len(mine)].view_as(errors) * valid


def _jaccard_steps(members: Tensor) -> Tensor:
    """By how much each pixel, the worst one first, raises 1 − IoU; ``members`` (N,) as 0 and 1.

    The difference of two ratios of counts in closed form: fp32 ratios cancel, and Apple's GPUs have no
    fp64. With i pixels left to find and a union of u: 1 / u for a member, i / (u · (u − 1)) for others.
    """
    own = members.long()
    found = own.cumsum(0)
    left = found[-1] - found
    union = left + torch.arange(1, len(own) + 1, device=own.device)
    rest = left / union / (union - 1).clamp(min=1)
    return torch.where(own > 0, 1 / union, rest)


def _everywhere(x: Tensor, world: int) -> Tensor:
    """``x`` (N,) of all processes, by rank: (world · N,)."""
    if world == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world)]
    dist.all_gather(parts, x)
    return torch.cat(parts)
