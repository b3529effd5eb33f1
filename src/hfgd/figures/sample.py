"""Pixels drawn evenly from a whole data set, at most so many of a class, in one pass.

Every pixel gets a random number, and of each class those with the smallest numbers stay: a reservoir
whose memory does not grow with the data. The numbers depend on (seed, image) alone, so the same
seed draws the same pixels whatever is drawn beside them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hfgd.data.dataset import SegDataset
from hfgd.progress import Progress

Ints = npt.NDArray[np.int64]


class Places(NamedTuple):
    """Where pixels lie: image, row, column and class of each, (N,) int64, sorted by image."""

    image: Ints
    row: Ints
    column: Ints
    label: Ints


class Reservoir:
    """At most ``most`` pixels of each of ``classes`` (ids), drawn with one seed."""

    def __init__(self, classes: Sequence[int], most: int, seed: int) -> None:
        self.classes, self.most, self.seed = classes, most, seed
        empty = np.empty(0), np.empty((0, 3), dtype=np.int64)  # numbers; image, row, column
        self._kept = dict.fromkeys(classes, empty)

    def add(self, image: int, label: np.ndarray) -> None:
        """Let the pixels of an image's label map (H, W) take part."""
        flat, width = label.ravel(), label.shape[1]
        for k in self.classes:
            places = np.flatnonzero(flat == k)
            if not len(places):
                continue
            # a stream for each class: which others are drawn changes nothing
            numbers = np.random.default_rng([self.seed, image, k]).random(len(places))
            old, kept = self._kept[k]
            if len(places) > self.most:
                least = np.argpartition(numbers, self.most)[: self.most]
                places, numbers = places[least], numbers[least]
            fresh = np.stack([np.full(len(places), image), places // width, places % width], 1)
            numbers, kept = np.concatenate([old, numbers]), np.concatenate([kept, fresh])
            order = np.argsort(numbers)[: self.most]
            self._kept[k] = numbers[order], kept[order]

    def pixels(self) -> Places:
        """All pixels that stayed."""
        places = np.concatenate([places for _, places in self._kept.values()])
        labels = np.repeat(self.classes, [len(places) for _, places in self._kept.values()])
        order = np.lexsort((places[:, 2], places[:, 1], labels, places[:, 0]))
        image, row, column = places[order].T
        return Places(image, row, column, labels[order].astype(np.int64))


def sampled(
    dataset: SegDataset, classes: Sequence[int], most: int, seeds: Sequence[int]
) -> list[Places]:
    """A sample of the data set for each seed."""
    reservoirs = [Reservoir(classes, most, seed) for seed in seeds]
    with Progress("drawing pixels", len(dataset)) as progress:
        for i in range(len(dataset)):
            label = dataset[i].label.numpy()
            for reservoir in reservoirs:
                reservoir.add(i, label)
            progress.update(i + 1)
    return [reservoir.pixels() for reservoir in reservoirs]
