"""Soft Dice: 1 − 2 Σ p t / (Σ p + Σ t) of each class, over the whole batch and all processes.

The mean over the classes that occur; a class that does not has no Dice. ``loss.normalise`` has no say,
and class weights weigh the classes, not the pixels.
"""

from torch import Tensor

from hfgd.losses.target import Target
from hfgd.losses.tversky import tversky_index


def dice(logits: Tensor, target: Target, factor: float) -> Tensor:
    """``factor`` · the Dice loss, in 0..1."""
    return factor * tversky_index(logits, target, 0.5, 0.5)
