"""One image and its label map, with the mean confidence where the model gives scores."""

import time
from typing import TYPE_CHECKING, NamedTuple

from hfgd.data.images import Pixels
from hfgd.inference.exported import FileLabeller
from hfgd.inference.labeller import Labeller

if TYPE_CHECKING:
    from torch import Tensor


class Labelled(NamedTuple):
    """``labels`` (H, W) uint8; ``seconds`` of the network; ``confidence``: the mean over the pixels of
    the best class's probability, None where the model gives labels alone."""

    labels: Pixels
    seconds: float
    confidence: float | None


def label(labeller: Labeller, pixels: Pixels) -> Labelled:
    """Label (H, W, 3) uint8 RGB."""
    began = time.perf_counter()
    if not gives_scores(labeller):
        labels = labeller(pixels)
        return Labelled(labels, time.perf_counter() - began, None)
    import torch

    mean = Confidence()
    labels = labeller.reduced(torch.from_numpy(pixels).permute(2, 0, 1), mean).cpu().numpy()
    value = float(mean.total) / max(1, labels.size)
    return Labelled(labels, time.perf_counter() - began, value)


def gives_scores(labeller: Labeller) -> bool:
    """Whether probabilities can be had beside the labels, without a second pass."""
    return hasattr(labeller, "reduced") and not isinstance(labeller, FileLabeller)


class Confidence:
    """Reduces scores (rows, W, K) to the best class and adds up its probability."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0

    def __call__(self, rows: slice, scores: "Tensor") -> "Tensor":
        labels, total = best_and_sure(scores)
        self.total = self.total + total
        return labels


def best_and_sure(scores: "Tensor") -> "tuple[Tensor, Tensor]":
    """(rows, W, K), which is overwritten → the best class, uint8, and its probability summed."""
    import torch

    highest, labels = scores.max(-1)  # the first one of equals, as argmax says
    # 1 / Σ exp(score - highest) is the softmax of the highest
    rest = scores.sub_(highest[..., None]).exp_().sum(-1)
    return labels.to(torch.uint8), rest.reciprocal_().sum(dtype=torch.float64)
