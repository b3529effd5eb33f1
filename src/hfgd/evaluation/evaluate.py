"""Running a model over a data set."""

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hfgd.data.classes import ClassSet
from hfgd.data.dataset import SegDataset
from hfgd.data.loader import EvalBatches
from hfgd.errors import HfgdError
from hfgd.evaluation.boundary import boundary_counts, boundary_pixels
from hfgd.evaluation.inference import label_image
from hfgd.evaluation.protocol import SINGLE_SCALE, Protocol
from hfgd.evaluation.scores import ImageCounts, Scores, count_pairs
from hfgd.model.segmenter import Branch, Segmenter, evaluating
from hfgd.processes import joined


def evaluate(
    model: Segmenter,
    dataset: SegDataset,
    protocol: Protocol = SINGLE_SCALE,
    *,
    branch: Branch = "fine",
    boundary: float | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score a branch of a model on every image of a data set, at the label's own size.

    ``boundary``: also count boundary IoU, with this width as a share of the image diagonal. In a
    run of several processes each scores its share of the images, each image once, and all get the
    scores of all. Raises HfgdError where the data set's classes are not the model's.
    """
    check_classes(model, dataset)
    device = model.hfgm.tokens.weight.device
    rank, world = joined()
    tally = Tally(len(model.classes), boundary).to(device)
    batches = EvalBatches(dataset, workers, rank, world)
    with evaluating(model):
        for done, (image, label, (name,)) in enumerate(batches, start=1):
            labels = label_image(model, image.to(device), protocol, branch)
            tally.update(labels, label[0].to(device), name)
            if progress is not None:
                progress(done, len(batches))
    return tally.scores(model.classes, len(dataset))


class Tally:
    """Counts while images pass: the matrix, every image's own counts, boundaries."""

    def __init__(self, num_classes: int, boundary: float | None) -> None:
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.boundary = boundary
        self._boundary_counts = torch.zeros(2, num_classes, dtype=torch.int64)
        self._images: list[tuple[str, np.ndarray]] = []

    def to(self, device: torch.device) -> "Tally":
        """Count on this device."""
        self.matrix = self.matrix.to(device)
        return self

    def update(self, prediction: Tensor, label: Tensor, name: str) -> None:
        """Count one image: both maps (H, W)."""
        num_classes = len(self.matrix)
        matrix = count_pairs(prediction, label, num_classes)
        self.matrix += matrix
        image = torch.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)])
        self._images.append((name, image.cpu().numpy()))
        if self.boundary is not None:
            size = (label.shape[0], label.shape[1])
            width = boundary_pixels(size, self.boundary)
            counts = boundary_counts(prediction.long(), label, num_classes, width)
            self._boundary_counts += counts.cpu()

    def scores(self, classes: ClassSet, total: int) -> Scores:
        """The scores over all processes; ``total`` images, in the data set's order."""
        matrix = self.matrix
        parts = [(self._images, self._boundary_counts)]
        _, world = joined()
        if world > 1:
            matrix = matrix.clone()
            dist.all_reduce(matrix)
            parts = [parts[0]] * world
            dist.all_gather_object(parts, (self._images, self._boundary_counts))
        images = [
            parts[i % world][0][i // world] for i in range(total)
        ]  # as EvalBatches dealt them
        counts = np.stack([c for _, c in images]) if images else np.zeros((0, 3, len(classes)), int)
        boundary = torch.stack([b for _, b in parts]).sum(0).numpy()
        return Scores(
            classes,
            matrix.cpu().numpy(),
            None if self.boundary is None else boundary,
            self.boundary,
            ImageCounts([name for name, _ in images], counts),
        )


def check_classes(model: Segmenter, dataset: SegDataset) -> None:
    """Refuse a data set whose class names are not the model's, in their order."""
    mine, theirs = model.classes.names, dataset.classes.names
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
