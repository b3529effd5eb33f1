"""The two values that data hands on, and what a data set is."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from hfgd.data.classes import IGNORE, ClassSet
from hfgd.errors import HfgdError


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


def sample_of(dataset: SegDataset, index: int) -> Sample:
    """A sample; raises HfgdError, with data set, image and key, where it is none."""
    sample = dataset[index]
    try:
        image, label, name = sample
        shape, size = tuple(image.shape), tuple(label.shape)
    except (TypeError, ValueError, AttributeError) as error:
        raise HfgdError(
            f"data set '{dataset.title}', index {index}: expected a Sample (image, label, name), "
            f"got {type(sample).__name__}."
        ) from error
    wrong = None
    if image.dtype != torch.uint8 or len(shape) != 3 or shape[0] != 3:
        wrong = f"image must be (3, H, W) uint8 RGB, not {shape} {_dtype(image)}"
    elif label.dtype != torch.uint8 or len(size) != 2:
        wrong = f"label must be (H, W) uint8 class ids, not {size} {_dtype(label)}"
    elif size != shape[1:]:
        wrong = f"label is {size} and its image {shape[1:]}; they must be of one size"
    else:
        count = len(dataset.classes)
        odd = (label >= count) & (label != IGNORE) if count < IGNORE else None
        if odd is not None and bool(odd.any()):
            wrong = (
                f"label holds the id {int(label[odd][0])}, and there are {count} classes "
                f"(0 to {count - 1}, {IGNORE} for ignored)"
            )
    if wrong is not None:
        raise HfgdError(f"data set '{dataset.title}', image '{name}': {wrong}.")
    return sample


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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
