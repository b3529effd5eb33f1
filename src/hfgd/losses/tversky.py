"""Tversky's index: Dice whose false positives and false negatives have weights of their own.

1 − TP / (TP + α FP + β FN) of each class [Salehi et al., 2017]; the mean as for Dice. A larger
``loss.tversky_beta`` finds more of the small classes and says more that is not there.
"""

from torch import Tensor

from hfgd.losses.banded import class_sums
from hfgd.losses.target import Target, class_mean, pixels_of_classes
from hfgd.parallel.processes import summed

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
