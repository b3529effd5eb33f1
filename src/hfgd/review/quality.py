"""How much a model trusts the label of an image, and where it is sure of something else.

The quality of a label is the soft minimum of the probability of the annotated class over the pixels
[Lad & Mueller, arXiv 2307.05080]: near 0 where a part of the label contradicts the model. All sums
are made while the scores pass, a strip of rows at a time.
"""

from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from hfgd.data.classes import IGNORE, ClassSet
from hfgd.data.images import Pixels
from hfgd.inference.labeller import Labeller
from hfgd.parallel.device import finest_float

SHARPNESS = 0.1  # of the soft minimum, as in the paper's code
SURE = 0.9  # probability from which a model counts as sure
SMALLEST = 0.0005  # share of the image that a region has at least
KEPT = 10  # regions of an image
AROUND = np.ones((3, 3), dtype=bool)
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SuspectRegion:
    """Connected pixels that the model is sure are ``suggested``, labelled mostly as ``labelled``.

    ``confidence``: its mean probability. ``box``: left, top, width, height in pixels. ``runs``: the
    pixels within the box, row by row: lengths of runs, zeros first.
    """

    labelled: str
    suggested: str
    pixels: int
    confidence: float
    box: tuple[int, int, int, int]
    runs: tuple[int, ...]

    def patch(self) -> Mask:
        """The pixels within the box, bool (height, width)."""
        _, _, width, height = self.box
        flat = np.repeat(np.arange(len(self.runs)) % 2 == 1, self.runs)
        return flat.reshape(height, width)


@dataclass(frozen=True)
class Found:
    """What is said of the label of one image.

    ``quality``: the soft minimum, ``loss``: the mean cross entropy, ``mean``: the mean probability of
    the annotated class; None where nothing is labelled. ``suspect``: share of the labelled pixels in
    ``regions``, the largest ones, largest first.
    """

    quality: float | None
    loss: float | None
    mean: float | None
    suspect: float
    regions: tuple[SuspectRegion, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Found":
        """From plain values."""
        regions = tuple(
            SuspectRegion(**{**region, "box": tuple(region["box"]), "runs": tuple(region["runs"])})
            for region in row["regions"]
        )
        return cls(row["quality"], row["loss"], row["mean"], row["suspect"], regions)


@dataclass(frozen=True)
class QualityTerms:
    """When a model is sure, which regions are too small, and the temperature of its confidence."""

    sure: float = SURE
    smallest: float = SMALLEST
    temperature: float = 1.0


def judge(labeller: Labeller, image: Tensor, label: Tensor, terms: QualityTerms) -> Found:
    """What the labeller thinks of the label (H, W) of an image (3, H, W) uint8."""
    sums = Sums(label, terms)
    maps = labeller.reduced(image, sums.add).cpu().numpy()
    return sums.found(maps[..., 0], maps[..., 1], labeller.classes)


class Sums:
    """Sums over the labelled pixels of an image while its scores pass."""

    def __init__(self, label: Tensor, terms: QualityTerms) -> None:
        self.label, self.terms = label, terms
        self._sums = torch.zeros(5, dtype=torch.float64)  # pixels, loss, p, p·weight, weight

    def add(self, rows: slice, scores: Tensor) -> Tensor:
        """(rows, W, 2) uint8: the class the model is sure of against the label, 255 for none; and
        255 times its probability.
        """
        label = self.label[rows].to(scores.device)
        valid = label != IGNORE
        log_p = (scores / self.terms.temperature).log_softmax(-1)
        given = log_p.gather(-1, label.long().masked_fill(~valid, 0)[..., None])[..., 0][valid]
        given = given.to(finest_float(given.device)).clamp_min(-100)
        p = given.exp()
        weight = ((1 - p) / SHARPNESS).exp()
        ones = torch.ones_like(p)
        parts = [values.sum() for values in (ones, -given, p, p * weight, weight)]
        self._sums += torch.stack(parts).cpu()
        confidence, best = log_p.max(-1)
        confidence = confidence.exp()
        differs = valid & (best != label) & (confidence >= self.terms.sure)
        best = best.masked_fill(~differs, IGNORE)
        return torch.stack([best, (255 * confidence).round()], -1).to(torch.uint8)

    def found(self, sure_of: Pixels, confidence: Pixels, classes: ClassSet) -> Found:
        """The whole, with the maps that ``add`` gave, (H, W) each."""
        pixels, loss, total, weighted, weights = self._sums.tolist()
        if not pixels:
            return Found(None, None, None, 0.0, ())
        label = self.label.cpu().numpy()
        smallest = max(1, round(self.terms.smallest * label.size))
        regions = find_regions(sure_of, confidence, label, classes, smallest)
        suspect = sum(region.pixels for region in regions) / pixels
        return Found(weighted / weights, loss / pixels, total / pixels, suspect, regions)


def find_regions(
    sure_of: Pixels, confidence: Pixels, label: Pixels, classes: ClassSet, smallest: int
) -> tuple[SuspectRegion, ...]:
    """Connected pixels of one class of ``sure_of`` (255: none), the largest ones first.

    Those of fewer than ``smallest`` pixels, and those nowhere three pixels wide, are left out: the
    border between two classes is drawn a little differently by everybody.
    """
    found: list[SuspectRegion] = []
    for index in np.unique(sure_of):
        if index == IGNORE:
            continue
        mask = sure_of == index
        parts, _ = ndimage.label(mask, AROUND)
        sizes = np.bincount(parts.ravel())
        thick = np.unique(parts[ndimage.binary_erosion(mask, AROUND)])
        wanted = {int(part) for part in thick if sizes[part] >= smallest}
        for part, place in enumerate(ndimage.find_objects(parts), start=1):
            if part in wanted:
                inside = parts[place] == part
                found.append(_region(int(index), place, inside, confidence, label, classes))
    found.sort(key=lambda region: -region.pixels * region.confidence)
    return tuple(found[:KEPT])


def _region(
    index: int,
    place: tuple[slice, slice],
    inside: Mask,
    confidence: Pixels,
    label: Pixels,
    classes: ClassSet,
) -> SuspectRegion:
    labelled = int(np.bincount(label[place][inside]).argmax())
    rows, columns = place
    box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
    return SuspectRegion(
        classes.names[labelled],
        classes.names[index],
        int(inside.sum()),
        float(confidence[place][inside].mean() / 255),
        box,
        tuple(runs_of(inside.ravel())),
    )


def runs_of(flat: Mask) -> list[int]:
    """Lengths of the runs of a bool vector, zeros first."""
    changes = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(list(chain([0], changes.tolist(), [len(flat)]))).tolist()
    return [0, *lengths] if len(flat) and flat[0] else lengths
