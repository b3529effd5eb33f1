"""Running a labeller over a data set."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hfgd.data.classes import IGNORE, ClassSet
from hfgd.data.dataset import SegDataset
from hfgd.data.loader import EvalBatches
from hfgd.errors import HfgdError
from hfgd.evaluation.page.thumbnails import Thumbnails
from hfgd.evaluation.scores import (
    ImageCounts,
    Ints,
    Scores,
    boundary_counts,
    boundary_pixels,
    count_pairs,
)
from hfgd.inference.labeller import Labeller
from hfgd.inference.temperature import Histograms
from hfgd.parallel.processes import everywhere, joined


def evaluate(
    labeller: Labeller,
    dataset: SegDataset,
    *,
    boundary: float | None = None,
    batches: EvalBatches | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    thumbnails: Thumbnails | None = None,
    confidence: Histograms | None = None,
) -> Scores:
    """Score what a labeller says of every image of a data set, at the label's own size.

    ``boundary``: also count boundary IoU, with this width as a share of the image diagonal.
    ``batches``: this data set's, where they are kept for the next time; otherwise ``workers`` processes
    read the images. ``thumbnails`` keeps a picture of each. ``confidence``: also counts this process's
    pixels by how sure the labeller is of them. In a run of several processes each scores its share of
    the images, each image once, and all get the scores of all. Raises HfgdError where the data set's
    classes are not the labeller's.
    """
    check_classes(labeller.classes, dataset)
    check_unseen(labeller, dataset)
    tally = Tally(len(labeller.classes), boundary)
    own = EvalBatches(dataset, workers, *joined()) if batches is None else nullcontext(batches)
    with own as batches:
        for done, (image, label, name) in enumerate(batches, start=1):
            watched = labeller
            if confidence is not None:
                half = 2 * batches.indices[done - 1] // len(dataset)
                watched = confidence.watching(labeller, label, half)
            labels = thumbnails.labels(watched, image) if thumbnails else watched.labels(image)
            tally.update(labels, label.to(labels.device, non_blocking=True), name)
            if thumbnails is not None:
                thumbnails.keep(batches.indices[done - 1], image, label, labels)
            if progress is not None:
                progress(done, len(batches))
    if thumbnails is not None:
        thumbnails.finish()  # before the processes meet: the main one finds what all have written
    return tally.scores(labeller.classes, len(dataset))


class Tally:
    """Counts while images pass, where their maps are; they are read at the end, not once an image."""

    def __init__(self, num_classes: int, boundary: float | None) -> None:
        self.num_classes, self.boundary = num_classes, boundary
        self._names: list[str] = []
        self._matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self._counts: list[Tensor] = []  # hits, labelled, predicted of each image (3, K)
        self._boundary_counts = torch.zeros(2, num_classes, dtype=torch.int64)
        self._labelled: list[Tensor] = []  # pixels of each image that are not ignored

    def update(self, prediction: Tensor, label: Tensor, name: str) -> None:
        """Count one image: both maps (H, W)."""
        matrix = count_pairs(prediction, label, self.num_classes)
        self._matrix = self._matrix.to(matrix.device) + matrix  # moves once
        self._counts.append(torch.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)]))
        self._names.append(name)
        self._labelled.append((label != IGNORE).sum())
        if self.boundary is not None:
            size = (label.shape[0], label.shape[1])
            width = boundary_pixels(size, self.boundary)
            counts = boundary_counts(prediction.long(), label, self.num_classes, width)
            self._boundary_counts = self._boundary_counts.to(counts.device) + counts

    def share(self) -> "Share":
        """What was counted, on the CPU. Raises HfgdError for a class that there is none of."""
        empty = np.zeros((0, 3, self.num_classes), dtype=np.int64)
        counts = torch.stack(self._counts).cpu().numpy() if self._counts else empty
        labelled = torch.stack(self._labelled).cpu().numpy() if self._labelled else counts[:, 0, 0]
        odd = np.flatnonzero(counts[:, 1].sum(1) != labelled)
        if len(odd):
            raise HfgdError(
                f"image '{self._names[odd[0]]}': its label or its prediction holds ids outside the "
                f"{self.num_classes} classes (0 to {self.num_classes - 1}, {IGNORE} for ignored); "
                "the data set or the network gives others."
            )
        images = list(zip(self._names, counts, strict=True))
        return Share(images, self._matrix.cpu().numpy(), self._boundary_counts.cpu().numpy())

    def scores(self, classes: ClassSet, total: int) -> Scores:
        """The scores over all processes; ``total`` images, in the data set's order."""
        return gathered(everywhere(self.share()), classes, total, self.boundary)


class Share(NamedTuple):
    """The counts of every n-th image: each one's (3, K) by name, and the sums over them."""

    images: list[tuple[str, Ints]]
    matrix: Ints
    boundary: Ints


def gathered(
    parts: Sequence[Share], classes: ClassSet, total: int, boundary: float | None
) -> Scores:
    """The scores of ``total`` images from the shares that EvalBatches dealt, in their order."""
    images = [parts[i % len(parts)].images[i // len(parts)] for i in range(total)]
    return Scores(
        classes,
        np.sum([part.matrix for part in parts], axis=0),
        None if boundary is None else np.sum([part.boundary for part in parts], axis=0),
        boundary,
        ImageCounts(
            [name for name, _ in images],
            np.stack([count for _, count in images])
            if images
            else np.zeros((0, 3, len(classes)), dtype=np.int64),
        ),
    )


def check_unseen(labeller: Labeller, dataset: SegDataset) -> None:
    """Refuse to score an int8 file on the images that its scales were fitted to."""
    seen = labeller.calibrated_on
    if seen is not None and dataset.title.split(" (")[0] == seen:
        raise HfgdError(
            f"this int8 file was calibrated on '{seen}', whose scores would flatter it; score it on "
            "another split."
        )


def check_classes(classes: ClassSet, dataset: SegDataset) -> None:
    """Refuse a data set whose class names are not the model's, in their order."""
    mine, theirs = classes.names, dataset.classes.names
    if mine == theirs:
        return
    if len(mine) != len(theirs):
        raise HfgdError(
            f"the model knows {len(mine)} classes and '{dataset.title}' has {len(theirs)}; "
            "evaluate it on data with the classes it was trained on."
        )
    i = next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
    raise HfgdError(
        f"class {i} is '{mine[i]}' for the model and '{theirs[i]}' in '{dataset.title}'; "
        "the names must agree, in the same order."
    )
