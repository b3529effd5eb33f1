"""Online hard example mining: cross-entropy of the pixels that are not learnt yet.

A pixel counts if its class has less than ``loss.ohem_threshold``, and the hardest
``loss.ohem_min_kept`` of all labelled pixels count in any case: of the whole batch, over all processes.
"""

import math

from torch import Tensor

from hfgd.losses.banded import pixel_losses
from hfgd.losses.cross_entropy import cross_entropy_sum
from hfgd.losses.target import Target, counted_pixels, kth_largest
from hfgd.parallel.processes import summed


def ohem(logits: Tensor, target: Target, factor: float) -> Tensor:
    """``factor`` · the mean over the pixels that count; under 'all' their sum by all pixels."""
    spec = target.spec
    losses = pixel_losses(logits, target.label, target.frame)
    kept = target.weight * hard(losses.detach(), target)
    if spec.label_smoothing:
        total = cross_entropy_sum(
            logits,
            target.label,
            kept,
            target.frame,
            smoothing=spec.label_smoothing,
            spread=target.valid * (kept > 0),
            classes=target.classes,
        )
    else:
        total = (losses * kept).sum()
    return factor * total / counted_pixels(kept, spec)


def hard(losses: Tensor, target: Target) -> Tensor:
    """Which pixels (B, H, W) count, as 0 and 1."""
    spec = target.spec
    counts = (target.weight > 0).long()
    wanted = (summed(counts.sum()) * spec.ohem_min_kept).ceil().long()
    hardest = kth_largest(losses.flatten(), counts.flatten(), wanted.clamp(min=1))
    least = -math.log(spec.ohem_threshold)
    hardest = hardest.masked_fill(wanted == 0, math.inf)  # none in any case: the threshold decides
    return (losses >= hardest.clamp(max=least)).float()
