"""What a criterion is given beside the logits, and the two ways to average."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from hfgd.data.classes import IGNORE
from hfgd.parallel.processes import averaged, summed
from hfgd.types import Frame

if TYPE_CHECKING:
    from hfgd.losses.spec import LossSpec


class Target(NamedTuple):
    """A batch's labels and how they count; the same for every branch.

    ``label`` (B, H, W) uint8 or int64, 255 = ignore. ``weight`` (B, H, W) fp32: what each pixel counts
    in a mean over pixels, 0 where ignored, its class's weight elsewhere. ``counted``: what such a sum
    is divided by. ``classes`` (K,): the weight of each class; None where all count alike.
    """

    label: Tensor
    weight: Tensor
    counted: Tensor | float
    classes: Tensor | None
    frame: Frame
    spec: "LossSpec"

    @property
    def valid(self) -> Tensor:
        """(B, H, W) fp32: 1 where there is a label."""
        return self.weight if self.classes is None else (self.label != IGNORE).float()


# low-resolution logits (B, K, h, w), what they should have been, and a factor → a scalar
Criterion = Callable[[Tensor, Target, float], Tensor]


def counted_pixels(weight: Tensor, spec: "LossSpec") -> Tensor | float:
    """What a sum over the pixels' ``weight`` (B, H, W) is divided by, as ``loss.normalise`` has it.

    Over all processes: the mean of their losses, and of their gradients, is then the whole batch's.
    """
    if spec.normalise == "all":
        return float(weight.numel())
    # a batch without a labelled pixel costs nothing
    return averaged(weight.sum()).clamp(min=1e-6)


def pixels_of_classes(target: Target, num_classes: int) -> Tensor:
    """Labelled pixels of each class (K,) over all processes, int64: fp32 stops counting at 2²⁴."""
    flat = (target.valid > 0).flatten().long()
    index = target.label.flatten().long().masked_fill(flat == 0, 0)
    return summed(flat.new_zeros(num_classes).index_add_(0, index, flat))


def class_mean(losses: Tensor, pixels: Tensor, target: Target) -> Tensor:
    """The mean of ``losses`` (K,) over the classes that occur, by their weights; 0 if none does."""
    share = (pixels > 0).float()
    if target.classes is not None:
        share = share * target.classes
    return (losses * share).sum() / share.sum().clamp(min=1e-6)


@torch.no_grad()
def kth_largest(values: Tensor, counts: Tensor, k: Tensor) -> Tensor:
    """The k-th largest of ``values`` (N,), fp32 and not negative, over all processes, exactly.

    ``counts`` (N,) int64: 1 for values that take part, 0 for others. ``k``: a count, as a tensor;
    nothing is read back. Positive floats are in the order of their bits, so two histograms
    (the upper, then the lower 16 bits) find the value; only they travel between processes.
    """
    bits = values.view(torch.int32).long() & 0x7FFFFFFF
    upper, left = _descend(bits >> 16, counts, k, 1 << 15)
    lower, _ = _descend(bits & 0xFFFF, counts * (bits >> 16 == upper), left, 1 << 16)
    return (upper << 16 | lower).int().view(torch.float32)


def _descend(index: Tensor, counts: Tensor, k: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The bin that holds the k-th from above, and the place from above within it."""
    histogram = summed(counts.new_zeros(bins).index_add_(0, index, counts))
    above = histogram.flip(0).cumsum(0).flip(0)  # in this bin or a higher one
    found = ((above >= k).sum() - 1).clamp(min=0)
    here = found[None]  # a number alone would be read back
    return found, k - above.take(here)[0] + histogram.take(here)[0]
