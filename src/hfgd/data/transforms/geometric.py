"""Rotation and perspective of the whole image, before its crop is drawn.

What the image does not cover gets the mean colour and the label 255. Labels are nearest.
"""

from dataclasses import dataclass

from torch import Tensor

from hfgd.data.classes import IGNORE
from hfgd.data.dataset import Sample
from hfgd.data.transforms.spec import AugmentSpec, Rng


@dataclass(frozen=True)
class Rotation:
    """Around the centre, counter-clockwise by ``degrees``; the size stays."""

    degrees: float

    @classmethod
    def draw(cls, spec: AugmentSpec, rng: Rng) -> "Rotation | None":
        if rng.uniform() >= spec.chance:
            return None
        return cls(float(rng.uniform(-spec.rotation, spec.rotation)))

    def apply(self, sample: Sample, fill: list[float]) -> Sample:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as kernels

        bilinear = InterpolationMode.BILINEAR
        image: Tensor = kernels.rotate(sample.image, self.degrees, bilinear, fill=fill)
        label: Tensor = kernels.rotate(sample.label[None], self.degrees, fill=[IGNORE])
        return Sample(image, label[0], sample.name)


@dataclass(frozen=True)
class Perspective:
    """The four corners, from top left clockwise, go to ``corners``, as shares of width and height."""

    corners: tuple[tuple[float, float], ...]  # (x, y)

    @classmethod
    def draw(cls, spec: AugmentSpec, rng: Rng) -> "Perspective | None":
        if rng.uniform() >= spec.chance:
            return None
        x, y = rng.uniform(0, spec.perspective / 2, (2, 4))
        return cls(((x[0], y[0]), (1 - x[1], y[1]), (1 - x[2], 1 - y[2]), (x[3], 1 - y[3])))

    def apply(self, sample: Sample, fill: list[float]) -> Sample:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as kernels

        right, bottom = sample.label.shape[1] - 1, sample.label.shape[0] - 1
        begin = [[0, 0], [right, 0], [right, bottom], [0, bottom]]
        # whole pixels are what the kernel takes
        end = [[round(x * right), round(y * bottom)] for x, y in self.corners]
        nearest, bilinear = InterpolationMode.NEAREST, InterpolationMode.BILINEAR
        image: Tensor = kernels.perspective(sample.image, begin, end, bilinear, fill=fill)
        label: Tensor = kernels.perspective(sample.label[None], begin, end, nearest, fill=[IGNORE])
        return Sample(image, label[0], sample.name)
