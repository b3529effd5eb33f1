"""What cameras and files do to a picture: blur, noise, JPEG."""

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hfgd.data.images import open_image
from hfgd.data.transforms.spec import AugmentSpec
from hfgd.data.transforms.streams import Rng

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
