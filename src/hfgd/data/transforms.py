"""Training augmentation, in the authors' order: scale, colours, pad, crop, flip (paper §4)."""

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hfgd.data.classes import IGNORE
from hfgd.data.dataset import Sample
from hfgd.errors import HfgdError
from hfgd.geometry import Grid, Size
from hfgd.resample import resize_labels, resize_window

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
    """A Sample and a random generator → a crop: a Sample again, image and label uint8.

    ``mean``: the backbone's mean colour, which fills what lies outside the image; to a byte it is zero
    after normalisation. ``grid``: the backbone's, whose sampling points the random scale keeps.
    """

    def __init__(self, spec: AugmentSpec, mean: Tensor, grid: Grid) -> None:
        if min(spec.crop) < 1 or min(spec.scales) <= 0:
            raise HfgdError(
                f"crop {spec.crop} and scales {spec.scales} must be positive; "
                "give crop as [height, width]."
            )
        self.spec = spec
        self.mean = mean.detach().cpu().float().view(3, 1, 1)
        self.grid = grid

    def __call__(self, sample: Sample, rng: Rng) -> Sample:
        """Only the window that the crop keeps is scaled and coloured: the rest costs nothing."""
        spec, image, label = self.spec, sample.image, sample.label
        scale = spec.scales[rng.integers(len(spec.scales))]
        size = (max(1, int(label.shape[0] * scale)), max(1, int(label.shape[1] * scale)))
        colours = Colours.draw(spec.colours, rng)
        top, left = (
            int(rng.integers(max(0, n - c) + 1)) for n, c in zip(size, spec.crop, strict=True)
        )
        flip = rng.uniform() < spec.flip
        rows = slice(top, min(top + spec.crop[0], size[0]))
        columns = slice(left, min(left + spec.crop[1], size[1]))
        if scale == 1:
            window = image[:, rows, columns].float() / 255
            ids = label[rows, columns]
        else:
            window = resize_window(image, size, rows, columns, self.grid) / 255
            ids = resize_labels(label[None], size, self.grid, rows, columns)[0]
        window, ids = self._pad(colours.apply(window, image), ids)
        if flip:
            window, ids = window.flip(-1), ids.flip(-1)
        return Sample(to_bytes(window), ids.contiguous(), sample.name)

    def _pad(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Right and bottom, up to the crop: mean colour and ignore."""
        bottom = self.spec.crop[0] - label.shape[0]
        right = self.spec.crop[1] - label.shape[1]
        if not (bottom or right):
            return image, label
        margin = (0, right, 0, bottom)
        image = F.pad(image - self.mean, margin) + self.mean
        return image, F.pad(label, margin, value=IGNORE)


def to_bytes(image: Tensor) -> Tensor:
    """[0, 1] → uint8, rounded; what lies outside is cut."""
    return (image * 255).round_().clamp_(0, 255).to(torch.uint8)


class Colours(NamedTuple):
    """The colour changes of one sample: None leaves a property as it is."""

    contrast: float | None = None
    saturation: float | None = None
    shift: float | None = None  # of the brightness
    clip: bool = True

    @classmethod
    def draw(cls, setting: str, rng: Rng) -> "Colours":
        """Each change with probability 0.5, as the setting has it (see AugmentSpec)."""
        if setting == "none":
            return cls(clip=False)
        contrast = saturation = None
        if setting == "advanced":
            contrast = rng.uniform(0.5, 1.5) if rng.uniform() < 0.5 else None
            saturation = rng.uniform(0.5, 1.5) if rng.uniform() < 0.5 else None
        shift = rng.uniform(-32, 32) / 255 if rng.uniform() < 0.5 else None
        return cls(contrast, saturation, shift)

    def apply(self, window: Tensor, whole: Tensor) -> Tensor:
        """Change ``window`` (3, h, w) in [0, 1]; contrast turns around the mean colour of the whole
        image (3, H, W) uint8, which scaling hardly changes."""
        if self.contrast is not None:
            mean = whole.float().mean((1, 2))[:, None, None] / 255
            window = mean + (window - mean) * self.contrast
        if self.saturation is not None:
            window = scale_saturation(window, self.saturation)
        if self.shift is not None:
            window = window + self.shift
        return window.clamp(0, 1) if self.clip else window


def scale_saturation(image: Tensor, factor: float) -> Tensor:
    """HSV saturation times ``factor``, at most 1; hue and value are kept. (3, H, W), any range."""
    value, least = image.amax(0, keepdim=True), image.amin(0, keepdim=True)
    spread = (value - least).clamp(min=1e-8)
    return value - (value - image) * torch.clamp(value / spread, max=factor)
