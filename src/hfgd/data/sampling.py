"""Which image a sample is made of, beyond the plain passes: rare classes first, and second images.

All of it needs to know how many pixels of each class every image has: ``class_counts``, from the labels
alone. It is the same for every process, and a run keeps it, so that one that goes on does as well.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hfgd.data.classes import ClassSet
from hfgd.data.dataset import SegDataset, label_of
from hfgd.data.transforms.spec import AugmentSpec
from hfgd.data.transforms.streams import Rng
from hfgd.errors import HfgdError, unknown
from hfgd.files import write_whole

Counts = np.ndarray  # (images, classes) int64: labelled pixels


def needs_counts(spec: AugmentSpec) -> bool:
    """Whether a recipe samples by class."""
    return spec.rare_class_sampling > 0 or bool(spec.copy_paste)


def class_counts(
    dataset: SegDataset, progress: Callable[[int], None] = lambda done: None
) -> Counts:
    """Labelled pixels of each class in every image, (N, K)."""
    counts = np.zeros((len(dataset), len(dataset.classes)), dtype=np.int64)
    for i in range(len(dataset)):
        found = np.bincount(label_of(dataset, i).numpy().ravel(), minlength=256)
        counts[i] = found[: counts.shape[1]]
        progress(i + 1)
    return counts


def read_counts(path: Path, dataset: SegDataset) -> Counts | None:
    """The counts that a run keeps; None where there are none of this many images and classes."""
    try:
        counts: Counts = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return counts if counts.shape == (len(dataset), len(dataset.classes)) else None


def write_counts(path: Path, counts: Counts) -> None:
    """Keep them, whole."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.save(file, counts)

    write_whole(path, write)


class RareClasses:
    """Draws a class, rare ones more often, then an image that has it."""

    def __init__(self, counts: Counts, temperature: float) -> None:
        pixels = counts.sum(0)
        seen = pixels > 0
        if not seen.any():
            raise HfgdError("augment.rare_class_sampling needs labels, and no image has any.")
        shares = pixels / pixels.sum()
        # less the largest exponent, so that nothing overflows
        heights = np.exp((shares[seen].min() - shares) / temperature) * seen
        self.chances = heights / heights.sum()
        self.images = [np.flatnonzero(column) for column in counts.T]

    def draw(self, rng: Rng) -> tuple[int, int]:
        """An image and the class that its crop shall show."""
        wanted = int(rng.choice(len(self.chances), p=self.chances))
        images = self.images[wanted]
        return int(images[rng.integers(len(images))]), wanted


class Donors:
    """The images that have one of some classes, for copy-paste."""

    def __init__(self, counts: Counts, names: Sequence[str], classes: ClassSet) -> None:
        self.classes = chosen_classes(names, classes)
        self.counts = counts[:, self.classes]
        self.images = np.flatnonzero(self.counts.any(1))
        if not len(self.images):
            raise HfgdError(
                f"augment.copy_paste: no image has {' or '.join(names)}; choose other classes."
            )

    def draw(self, rng: Rng) -> tuple[int, int]:
        """An image and the one of the classes that its crop shall show."""
        image = int(self.images[rng.integers(len(self.images))])
        there = np.flatnonzero(self.counts[image])
        return image, self.classes[there[rng.integers(len(there))]]


def chosen_classes(names: Sequence[str], classes: ClassSet) -> list[int]:
    """Class ids of the names; raises HfgdError for a name that the data do not have."""
    for name in names:
        if name not in classes.names:
            raise HfgdError(f"augment.copy_paste: {unknown('class', name, classes.names)}")
    return [classes.names.index(name) for name in names]
