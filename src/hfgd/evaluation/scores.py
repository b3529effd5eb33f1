"""Scores over a whole data set, from one int64 confusion matrix.

Ignored pixels are out. A class with no pixel in labels and predictions has no score: it is left
out of the means and reported as absent, never counted as zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hfgd.data.classes import IGNORE, ClassSet
from hfgd.errors import unknown

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageCounts:
    """Pixels of each image (N, 3, K): hits, labelled, predicted; ``names`` in the same order."""

    names: list[str]
    counts: Ints

    def iou(self) -> Floats:
        """IoU of each image and class (N, K); NaN where the class is absent from both."""
        hits, labelled, predicted = self.counts.transpose(1, 0, 2)
        return _ratio(hits, labelled + predicted - hits)

    def miou(self) -> Floats:
        """Each image's mean IoU over the classes that occur in it (N,); NaN without any."""
        return np.array([_mean(row) for row in self.iou()])


@dataclass(frozen=True)
class Scores:
    """``matrix[label, prediction]`` counts pixels (K, K); every score is a fraction of 1.

    ``boundary`` (2, K): intersection and union of boundary pixels, see boundary.py, with
    ``boundary_width`` as a share of the image diagonal; None where not asked for.
    ``images``: counts of every image, in the data set's order; None where not kept.
    """

    classes: ClassSet
    matrix: Ints
    boundary: Ints | None = None
    boundary_width: float | None = None
    images: ImageCounts | None = None

    @property
    def label_pixels(self) -> Ints:
        """Pixels of each class in the labels."""
        total: Ints = self.matrix.sum(1)
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
    def fwiou(self) -> float:
        """IoU weighted by each class's share of the label pixels."""
        total = self.matrix.sum()
        return float(np.nansum(self.iou * self.label_pixels) / total) if total else float("nan")

    @property
    def boundary_iou(self) -> Floats:
        """Boundary IoU of each class; NaN where it has no boundary, or where not asked for."""
        if self.boundary is None:
            return np.full(len(self.classes), np.nan)
        return _ratio(self.boundary[0], self.boundary[1])

    def group_iou(self, members: Sequence[str]) -> float:
        """IoU of several classes taken as one; raises HfgdError for an unknown class."""
        for name in members:
            if name not in self.classes.names:
                raise unknown("class", name, self.classes.names)
        inside = np.isin(np.array(self.classes.names), list(members))
        hits = self.matrix[np.ix_(inside, inside)].sum()
        union = self.matrix[inside].sum() + self.matrix[:, inside].sum() - hits
        return float(_ratio(hits, union))

    @property
    def absent(self) -> list[str]:
        """Classes with no pixel in labels and predictions."""
        return [n for n, v in zip(self.classes.names, self.iou, strict=True) if np.isnan(v)]

    def summary(self) -> dict[str, float]:
        """The means, under the names the field uses."""
        return {"mIoU": self.miou, "mAcc": self.macc, "aAcc": self.aacc}

    def all_means(self) -> dict[str, float]:
        """The summary and the further means, boundary IoU where it was asked for."""
        means = self.summary() | {"fwIoU": self.fwiou, "mF1": _mean(self.f1)}
        return means if self.boundary is None else means | {"mBIoU": _mean(self.boundary_iou)}


def count_pairs(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Pixels per (label, prediction): (K, K) int64, where the maps are, without waiting for them.

    Ignored pixels, and those outside the classes, are left out; Tally refuses the latter.
    """
    label, prediction = label.long(), prediction.long()
    pairs = label * num_classes + prediction
    counted = (label >= 0) & (label < num_classes) & (prediction >= 0) & (prediction < num_classes)
    pairs = pairs.masked_fill(~counted, num_classes**2).flatten()
    if pairs.device.type == "cpu":
        counts = torch.bincount(pairs, minlength=num_classes**2 + 1)
    else:  # elsewhere bincount waits for the largest value
        counts = torch.zeros(num_classes**2 + 1, dtype=torch.int64, device=pairs.device)
        counts.scatter_add_(0, pairs, torch.ones_like(pairs))
    return counts[:-1].view(num_classes, num_classes)


def _ratio(part: Any, whole: Any) -> Floats:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    ratio: Floats = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return ratio


def _mean(values: Floats) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


# ---- boundary IoU --------------------------------------------------------------------------------


WIDTH = 0.02  # of the image diagonal, as in the original


def boundary_pixels(size: tuple[int, int], share: float = WIDTH) -> int:
    """The width in pixels for an image of this size, at least 1."""
    height, width = size
    return max(1, round(share * math.hypot(height, width)))


def boundary_counts(prediction: Tensor, label: Tensor, num_classes: int, width: int) -> Tensor:
    """Intersection and union of boundary pixels per class: (2, K) int64. Both maps are (H, W)."""
    valid = label != IGNORE
    of_label = boundary_map(label, valid, width) & valid
    of_prediction = boundary_map(prediction, valid, width) & valid
    both = of_label & of_prediction & (label == prediction)

    def per_class(ids: Tensor, chosen: Tensor) -> Tensor:
        index = ids.long().masked_fill(~chosen, num_classes).flatten()
        counts = torch.zeros(num_classes + 1, dtype=torch.int64, device=ids.device)
        return counts.scatter_add_(0, index, torch.ones_like(index))[:-1]  # waits for nothing

    inter = per_class(label, both)
    union = per_class(label, of_label) + per_class(prediction, of_prediction) - inter
    return torch.stack([inter, union])


def boundary_map(ids: Tensor, valid: Tensor, width: int) -> Tensor:
    """Which pixels (H, W) see another valid class, or the border, within ``width`` pixels."""
    as_float = ids.float()
    highest = _window_max(torch.where(valid, as_float, -1.0), width)
    lowest = -_window_max(torch.where(valid, -as_float, -1000.0), width)
    near_other = (highest > as_float) | (lowest < as_float)
    height, columns = ids.shape
    rows = torch.arange(height, device=ids.device)
    across = torch.arange(columns, device=ids.device)
    near_border = torch.minimum(rows, height - 1 - rows)[:, None] < width
    return near_other | near_border | (torch.minimum(across, columns - 1 - across) < width)


def _window_max(x: Tensor, width: int) -> Tensor:
    """Maximum over a square of 2·width + 1 pixels a side, one axis after the other."""
    side = 2 * width + 1
    x = F.max_pool2d(x[None, None], (side, 1), stride=1, padding=(width, 0))
    return F.max_pool2d(x, (1, side), stride=1, padding=(0, width))[0, 0]
