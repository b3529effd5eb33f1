"""Brightness, contrast, saturation as the authors have them; gamma, grey, channel shuffle."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hfgd.data.transforms.spec import AugmentSpec
from hfgd.data.transforms.streams import Rng


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


@dataclass(frozen=True)
class Gamma:
    """[0, 1] to the power of ``exponent``."""

    exponent: float

    @classmethod
    def draw(cls, spec: AugmentSpec, rng: Rng) -> "Gamma | None":
        if rng.uniform() >= spec.chance:
            return None
        return cls(float((1 + spec.gamma) ** rng.uniform(-1, 1)))

    def apply(self, window: Tensor) -> Tensor:
        return window.clamp(0, 1) ** self.exponent


@dataclass(frozen=True)
class Grey:
    """The luma of ITU-R 601 in all three channels."""

    @classmethod
    def draw(cls, spec: AugmentSpec, rng: Rng) -> "Grey | None":
        return cls() if rng.uniform() < spec.grey else None

    def apply(self, window: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional as kernels

        grey: Tensor = kernels.rgb_to_grayscale(window, num_output_channels=3)
        return grey


@dataclass(frozen=True)
class ChannelShuffle:
    """The three channels in another order (or the same, one time in six)."""

    order: tuple[int, ...]

    @classmethod
    def draw(cls, spec: AugmentSpec, rng: Rng) -> "ChannelShuffle | None":
        if rng.uniform() >= spec.channel_shuffle:
            return None
        return cls(tuple(int(i) for i in rng.permutation(3)))

    def apply(self, window: Tensor) -> Tensor:
        return window[list(self.order)]
