"""The two values that data hands on, and what a data set is."""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from hfgd.data.classes import ClassSet


class Sample(NamedTuple):
    """One image (3, H, W) uint8 RGB, its label (H, W) uint8 class ids with 255 = ignore, its name."""

    image: Tensor
    label: Tensor
    name: str


class Batch(NamedTuple):
    """image (B, 3, H, W) uint8 RGB; label (B, H, W) uint8 with 255 = ignore; B names.

    Bytes travel to the device; there the image becomes float in [0, 1].
    """

    image: Tensor
    label: Tensor
    names: list[str]


class SegDataset(Protocol):
    """Images with labels: ``classes``, a ``title`` for reports, a length, and Samples by index."""

    classes: ClassSet
    title: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@runtime_checkable
class WithLabels(Protocol):
    """A data set that can read a label without its image."""

    def label(self, index: int) -> Tensor: ...


def label_of(dataset: SegDataset, index: int) -> Tensor:
    """The label (H, W) uint8 of a sample; its image is not read where that can be helped."""
    return dataset.label(index) if isinstance(dataset, WithLabels) else dataset[index].label


class Part:
    """``count`` samples of a data set, spread evenly over it."""

    def __init__(self, whole: SegDataset, count: int) -> None:
        self.whole = whole
        self.classes, self.title = whole.classes, f"{whole.title} ({count} of {len(whole)})"
        self.indices = [(2 * i + 1) * len(whole) // (2 * count) for i in range(count)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Sample:
        return self.whole[self.indices[position]]

    def label(self, position: int) -> Tensor:
        """The label of a sample alone."""
        return label_of(self.whole, self.indices[position])
