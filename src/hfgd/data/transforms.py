"""Training augmentation, in the authors' order: scale, colours, pad, crop, flip (paper §4)."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hfgd.data.classes import IGNORE
from hfgd.data.dataset import Sample
from hfgd.errors import HfgdError
from hfgd.geometry import Grid, Size

Rng = np.random.Generator


class AugmentSpec(BaseModel):
    """How a training sample is made from an image; sizes are (height, width).

    ``scales``: one is drawn for both sides. ``colours``: 'none'; 'plain' shifts the brightness by
    up to 32 of 255 with probability 0.5; 'advanced' first scales contrast and saturation by
    0.5 to 1.5 with probability 0.5 each. ``flip``: probability of a left-right flip.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: Size = (513, 513)
    scales: tuple[float, ...] = Field((0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), min_length=1)
    colours: Literal["none", "plain", "advanced"] = "plain"
    flip: float = Field(0.5, ge=0, le=1)


class Augment:
    """A Sample and a random generator → a crop: image (3, h, w) float in [0, 1], label (h, w) int64.

    ``mean``: the backbone's mean colour, which fills what lies outside the image; it is zero after
    normalisation. ``grid``: the backbone's, whose sampling points the random scale keeps.
    """

    def __init__(self, spec: AugmentSpec, mean: Tensor, grid: Grid) -> None:
        if min(spec.crop) < 1 or min(spec.scales) <= 0:
            raise HfgdError(
                f"crop {spec.crop} and scales {spec.scales} must be positive; "
                "give crop as [height, width]."
            )
        self.spec = spec
        self.mean = mean.detach().cpu().view(3, 1, 1)
        self.grid = grid

    def __call__(self, sample: Sample, rng: Rng) -> Sample:
        image, label = sample.image.float() / 255, sample.label
        scale = self.spec.scales[rng.integers(len(self.spec.scales))]
        image, label = self._scale(image, label, scale)
        image = _change_colours(image, self.spec.colours, rng)
        image, label = self._pad(image, label)
        image, label = self._crop(image, label, rng)
        if rng.uniform() < self.spec.flip:
            image, label = image.flip(-1), label.flip(-1)
        return Sample(image.contiguous(), label.long(), sample.name)

    def _scale(self, image: Tensor, label: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        size = (max(1, int(image.shape[1] * scale)), max(1, int(image.shape[2] * scale)))
        return (
            self.grid.resize(image[None], size)[0],
            self.grid.resize_labels(label[None], size)[0],
        )

    def _pad(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        bottom = max(0, self.spec.crop[0] - image.shape[1])
        right = max(0, self.spec.crop[1] - image.shape[2])
        margin = (0, right, 0, bottom)
        image = F.pad(image - self.mean, margin) + self.mean
        return image, F.pad(label, margin, value=IGNORE)

    def _crop(self, image: Tensor, label: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        height, width = self.spec.crop
        top = rng.integers(label.shape[0] - height + 1)
        left = rng.integers(label.shape[1] - width + 1)
        window = (..., slice(top, top + height), slice(left, left + width))
        return image[window], label[window]


def _change_colours(image: Tensor, colours: str, rng: Rng) -> Tensor:
    if colours == "none":
        return image
    if colours == "advanced":
        if rng.uniform() < 0.5:
            mean = image.mean((1, 2), keepdim=True)
            image = mean + (image - mean) * rng.uniform(0.5, 1.5)
        if rng.uniform() < 0.5:
            image = scale_saturation(image, rng.uniform(0.5, 1.5))
    if rng.uniform() < 0.5:
        image = image + rng.uniform(-32, 32) / 255
    return image.clamp(0, 1)


def scale_saturation(image: Tensor, factor: float) -> Tensor:
    """HSV saturation times ``factor``, at most 1; hue and value are kept. (3, H, W), any range."""
    value, least = image.amax(0, keepdim=True), image.amin(0, keepdim=True)
    spread = (value - least).clamp(min=1e-8)
    return value - (value - image) * torch.clamp(value / spread, max=factor)
