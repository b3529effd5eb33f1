"""Scores over a whole data set, from one int64 confusion matrix.

Ignored pixels are out. A class with no pixel in labels and predictions has no score: it is left
out of the means and reported as absent, never counted as zero.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from hfgd.data.classes import IGNORE, ClassSet

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """``matrix[label, prediction]`` counts pixels (K, K); every score is a fraction of 1."""

    classes: ClassSet
    matrix: npt.NDArray[np.int64]

    @property
    def label_pixels(self) -> npt.NDArray[np.int64]:
        """Pixels of each class in the labels."""
        total: npt.NDArray[np.int64] = self.matrix.sum(1)
        return total

    @property
    def iou(self) -> Floats:
        """Intersection over union of each class; NaN where it is absent."""
        hits = np.diag(self.matrix)
        return _ratio(hits, self.matrix.sum(0) + self.matrix.sum(1) - hits)

    @property
    def accuracy(self) -> Floats:
        """Share of each class's label pixels that were found (recall); NaN without any."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(1))

    @property
    def precision(self) -> Floats:
        """Share of each class's predicted pixels that are right; NaN without any."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(0))

    @property
    def f1(self) -> Floats:
        """2·hits / (label + predicted pixels), also called Dice; NaN where absent."""
        return _ratio(2 * np.diag(self.matrix), self.matrix.sum(0) + self.matrix.sum(1))

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur."""
        return _mean(self.iou)

    @property
    def macc(self) -> float:
        """Mean accuracy over the classes that occur in the labels."""
        return _mean(self.accuracy)

    @property
    def aacc(self) -> float:
        """Share of all labelled pixels that are right."""
        return float(_ratio(np.trace(self.matrix), self.matrix.sum()))

    @property
    def absent(self) -> list[str]:
        """Classes with no pixel in labels and predictions."""
        return [n for n, v in zip(self.classes.names, self.iou, strict=True) if np.isnan(v)]

    def summary(self) -> dict[str, float]:
        """The means, under the names the field uses."""
        return {"mIoU": self.miou, "mAcc": self.macc, "aAcc": self.aacc}


class ConfusionMatrix(Metric):
    """The matrix as state that torchmetrics sums over processes."""

    full_state_update = False
    matrix: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("matrix", zeros, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count one batch of class ids; both of one shape, label 255 = ignore."""
        self.matrix += count_pairs(prediction, label, self.num_classes)

    def compute(self) -> Tensor:
        """The matrix (K, K) over everything seen, in all processes."""
        return self.matrix


def count_pairs(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Pixels per (label, prediction): (K, K) int64."""
    valid = label != IGNORE
    pairs = label[valid].long() * num_classes + prediction[valid].long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def _ratio(part: Any, whole: Any) -> Floats:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    ratio: Floats = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return ratio


def _mean(values: Floats) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
