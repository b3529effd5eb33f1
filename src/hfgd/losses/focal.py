"""Focal loss on the softmax: (1 − p)^γ · cross-entropy, so that easy pixels count little.

Lin et al. (2017) wrote it for a sigmoid of each class; classes that exclude each other have one
softmax.
"""

from torch import Tensor

from hfgd.losses.banded import pixel_losses
from hfgd.losses.target import Target


def focal(logits: Tensor, target: Target, factor: float) -> Tensor:
    """``factor`` · the mean over pixels, as cross-entropy's."""
    losses = pixel_losses(logits, target.label, target.frame)
    gamma = target.spec.focal_gamma
    # 1 − p, never 0: its slope is not finite there for γ < 1
    wrong = -(-losses).expm1().clamp(max=-1e-12)
    return factor * (wrong**gamma * losses * target.weight).sum() / target.counted
