"""What cameras and files do to a picture: blur, noise, JPEG."""

import io
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hfgd.data.images import open_image
from hfgd.data.transforms.spec import AugmentSpec, Rng

BEST_JPEG = 95


def to_bytes(image: Tensor) -> Tensor:
    """[0, 1] → uint8, rounded; what lies outside is cut."""
    return (image * 255).round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Blur:
    """A Gaussian; ``sigma`` in pixels of the crop."""

    sigma: float

    @classmethod
    def draw(cls, spec: AugmentSpec, rng: Rng) -> "Blur | None":
        if rng.uniform() >= spec.chance:
            return None
        return cls(float(rng.uniform(0, spec.blur)))

    def apply(self, window: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional as kernels

        radius = min(math.ceil(3 * self.sigma), *(n - 1 for n in window.shape[1:]))
        if radius < 1 or self.sigma < 0.05:
            return window
        size = 2 * radius + 1
        blurred: Tensor = kernels.gaussian_blur(window, [size, size], [self.sigma] * 2)
        return blurred


@dataclass(frozen=True)
class Noise:
    """Gaussian noise, another in each channel; ``deviation`` where white is 1."""

    deviation: float
    seed: int

    @classmethod
    def draw(cls, spec: AugmentSpec, rng: Rng) -> "Noise | None":
        if rng.uniform() >= spec.chance:
            return None
        return cls(float(rng.uniform(0, spec.noise)), int(rng.integers(2**63)))

    def apply(self, window: Tensor) -> Tensor:
        rng = np.random.default_rng(self.seed)
        noise = rng.standard_normal(tuple(window.shape), dtype=np.float32)
        return (window + self.deviation * torch.from_numpy(noise)).clamp(0, 1)


@dataclass(frozen=True)
class Jpeg:
    """Saved as JPEG and read again."""

    quality: int

    @classmethod
    def draw(cls, spec: AugmentSpec, rng: Rng) -> "Jpeg | None":
        if rng.uniform() >= spec.chance:
            return None
        return cls(int(rng.integers(spec.jpeg, BEST_JPEG + 1)))

    def apply(self, window: Tensor) -> Tensor:
        file = io.BytesIO()
        Image.fromarray(to_bytes(window).permute(1, 2, 0).numpy()).save(
            file, "JPEG", quality=self.quality
        )
        pixels = np.array(open_image(file, ("JPEG",)).convert("RGB"))
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


# ---- colours -------------------------------------------------------------------------------------


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
