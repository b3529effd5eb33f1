"""Two crops in one: CutMix and copy-paste."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hfgd.data.dataset import Sample
from hfgd.data.transforms.spec import AugmentSpec, Rng


@dataclass(frozen=True)
class CutMix:
    """A rectangle of the other crop [Yun et al., 2019]: its area is uniform, its centre anywhere.

    The four numbers are shares of height and width: top, bottom, left, right, cut at the border.
    """

    top: float
    bottom: float
    left: float
    right: float

    @classmethod
    def draw(cls, spec: AugmentSpec, rng: Rng) -> "CutMix | None":
        if rng.uniform() >= spec.cutmix:
            return None
        half = rng.uniform() ** 0.5 / 2
        y, x = rng.uniform(size=2)
        sides = np.clip([y - half, y + half, x - half, x + half], 0, 1)
        return cls(*(float(side) for side in sides))

    def apply(self, sample: Sample, other: Sample) -> Sample:
        height, width = sample.label.shape
        rows = slice(round(self.top * height), round(self.bottom * height))
        columns = slice(round(self.left * width), round(self.right * width))
        image, label = sample.image.clone(), sample.label.clone()
        image[:, rows, columns] = other.image[:, rows, columns]
        label[rows, columns] = other.label[rows, columns]
        return Sample(image, label, sample.name)


@dataclass(frozen=True)
class CopyPaste:
    """The pixels of some classes of the other crop, where they are there."""

    classes: tuple[int, ...]

    def apply(self, sample: Sample, other: Sample) -> Sample:
        mask = torch.isin(other.label, torch.tensor(self.classes, dtype=torch.uint8))
        image: Tensor = torch.where(mask, other.image, sample.image)
        return Sample(image, torch.where(mask, other.label, sample.label), sample.name)
