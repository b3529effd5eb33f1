"""Training augmentation, in the authors' order: scale, colours, pad, crop, flip (paper §4).

Rotation and perspective come before it, gamma, grey, … after the colours and before the padding. Every
operation first draws, then applies; those that a recipe does not switch on do neither.
"""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from hfgd.data.classes import IGNORE
from hfgd.data.dataset import Sample
from hfgd.data.transforms import spec as streams
from hfgd.data.transforms.geometric import Perspective, Rotation
from hfgd.data.transforms.photometric import (
    Blur,
    ChannelShuffle,
    Colours,
    Gamma,
    Grey,
    Jpeg,
    Noise,
    to_bytes,
)
from hfgd.data.transforms.spec import AugmentSpec, Rng, stream
from hfgd.errors import HfgdError
from hfgd.resample import resize_labels, resize_window
from hfgd.types import Grid, Size

# in the order in which they apply: the key of a recipe, its stream, the operation
WHOLE = {
    "rotation": (streams.ROTATION, Rotation),
    "perspective": (streams.PERSPECTIVE, Perspective),
}
WINDOW = {
    "gamma": (streams.GAMMA, Gamma),
    "grey": (streams.GREY, Grey),
    "channel_shuffle": (streams.CHANNEL_SHUFFLE, ChannelShuffle),
    "blur": (streams.BLUR, Blur),
    "noise": (streams.NOISE, Noise),
    "jpeg": (streams.JPEG, Jpeg),
}
TRIES = 10  # crops that are drawn again for max_class_share


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

    def __call__(self, sample: Sample, rng: Rng, wanted: int | None = None) -> Sample:
        """Only the window that the crop keeps is scaled and coloured: the rest costs nothing.

        ``wanted``: a class that the crop shall show, where the image has it.
        """
        spec = self.spec
        sample = self._whole(sample, rng)
        image, label = sample.image, sample.label
        scale = spec.scales[rng.integers(len(spec.scales))]
        size = (max(1, int(label.shape[0] * scale)), max(1, int(label.shape[1] * scale)))
        colours = Colours.draw(spec.colours, rng)
        top, left = (
            int(rng.integers(max(0, n - c) + 1)) for n, c in zip(size, spec.crop, strict=True)
        )
        flip = rng.uniform() < spec.flip
        if wanted is not None or spec.max_class_share < 1:
            top, left = self._better(label, size, (top, left), stream(rng, streams.CROP), wanted)
        rows, columns = self._window(size, top, left)
        if scale == 1:
            window = image[:, rows, columns].float() / 255
            ids = label[rows, columns]
        else:
            window = resize_window(image, size, rows, columns, self.grid) / 255
            ids = resize_labels(label[None], size, self.grid, rows, columns)[0]
        window = colours.apply(window, image)
        for key, (number, operation) in WINDOW.items():
            if getattr(spec, key):
                change = operation.draw(spec, stream(rng, number))  # type: ignore[attr-defined]
                window = window if change is None else change.apply(window)
        window, ids = self._pad(window, ids)
        if flip:
            window, ids = window.flip(-1), ids.flip(-1)
        return Sample(to_bytes(window), ids.contiguous(), sample.name)

    def _whole(self, sample: Sample, rng: Rng) -> Sample:
        """Rotation and perspective, of the whole image."""
        fill = (255 * self.mean).round().flatten().tolist()
        for key, (number, operation) in WHOLE.items():
            if getattr(self.spec, key):
                change = operation.draw(self.spec, stream(rng, number))  # type: ignore[attr-defined]
                sample = sample if change is None else change.apply(sample, fill)
        return sample

    def _window(self, size: Size, top: int, left: int) -> tuple[slice, slice]:
        """The part of a scaled image that a crop shows."""
        height, width = self.spec.crop
        return slice(top, min(top + height, size[0])), slice(left, min(left + width, size[1]))

    def _better(
        self, label: Tensor, size: Size, place: tuple[int, int], rng: Rng, wanted: int | None
    ) -> tuple[int, int]:
        """A crop's place that shows the wanted class and not too much of any, if one is found.

        The place that was drawn first is the first to be tried; the last one stands.
        """
        found = None if wanted is None else np.flatnonzero(label.numpy() == wanted)
        aimed = found is not None and len(found) > 0
        for number in range(TRIES + 1):
            if aimed:
                assert found is not None
                pixel = np.unravel_index(found[rng.integers(len(found))], label.shape)
                place = self._around(pixel, label, size, rng)
            elif number:
                height, width = (
                    int(rng.integers(max(0, n - c) + 1))
                    for n, c in zip(size, self.spec.crop, strict=True)
                )
                place = height, width
            if self.spec.max_class_share == 1:
                break
            ids = resize_labels(label[None], size, self.grid, *self._window(size, *place))
            counts = np.bincount(ids.numpy().ravel(), minlength=IGNORE + 1)[:IGNORE]
            if counts.max() <= self.spec.max_class_share * counts.sum():
                break
        return place

    def _around(
        self, pixel: tuple[int, int], label: Tensor, size: Size, rng: Rng
    ) -> tuple[int, int]:
        """The place of a crop that shows a pixel of the label, which is scaled to ``size``."""
        top, left = (
            int(rng.integers(max(0, min(at - c + 1, n - c)), max(0, min(at, n - c)) + 1))
            for at, n, c in zip(
                (p * n // m for p, n, m in zip(pixel, size, label.shape, strict=True)),
                size,
                self.spec.crop,
                strict=True,
            )
        )
        return top, left

    def _pad(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Right and bottom, up to the crop: mean colour and ignore."""
        bottom = self.spec.crop[0] - label.shape[0]
        right = self.spec.crop[1] - label.shape[1]
        if not (bottom or right):
            return image, label
        margin = (0, right, 0, bottom)
        image = F.pad(image - self.mean, margin) + self.mean
        return image, F.pad(label, margin, value=IGNORE)
