"""The criteria by name: a new one is a function and one line in ``CRITERIA``."""

import math

from torch import Tensor

from hfgd.losses.banded import class_sums, pixel_losses
from hfgd.losses.cross_entropy import cross_entropy, cross_entropy_sum
from hfgd.losses.lovasz import lovasz
from hfgd.losses.target import (
    Criterion,
    Target,
    class_mean,
    counted_pixels,
    kth_largest,
    pixels_of_classes,
)
from hfgd.parallel.processes import summed


def focal(logits: Tensor, target: Target, factor: float) -> Tensor:
    """``factor`` · the mean over pixels, as cross-entropy's."""
    losses = pixel_losses(logits, target.label, target.frame)
    gamma = target.spec.focal_gamma
    # 1 − p, never 0: its slope is not finite there for γ < 1
    wrong = -(-losses).expm1().clamp(max=-1e-12)
    return factor * (wrong**gamma * losses * target.weight).sum() / target.counted


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


EPS = 1e-7


def tversky(logits: Tensor, target: Target, factor: float) -> Tensor:
    """``factor`` · the Tversky loss with the recipe's weights, in 0..1."""
    spec = target.spec
    return factor * tversky_index(logits, target, spec.tversky_alpha, spec.tversky_beta)


def tversky_index(logits: Tensor, target: Target, alpha: float, beta: float) -> Tensor:
    """1 − the index, averaged over the classes that occur in the batch of all processes."""
    own, every = class_sums(logits, target.label, target.valid, target.frame)
    hit, said = summed(own), summed(every)
    pixels = pixels_of_classes(target, logits.shape[1])
    score = hit / (hit + alpha * (said - hit) + beta * (pixels - hit)).clamp(min=EPS)
    return class_mean(1 - score, pixels, target)


def dice(logits: Tensor, target: Target, factor: float) -> Tensor:
    """``factor`` · the Dice loss, in 0..1."""
    return factor * tversky_index(logits, target, 0.5, 0.5)


CRITERIA: dict[str, Criterion] = {
    "cross_entropy": cross_entropy,
    "ohem": ohem,
    "focal": focal,
    "dice": dice,
    "lovasz": lovasz,
    "tversky": tversky,
}
