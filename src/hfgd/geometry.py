"""How feature maps lie over the image: the only padding rule and the only resize call.

Legend for the whole package: ``B`` batch, ``K`` classes, ``C_i`` backbone widths, ``D`` token
width, ``h, w`` the high-level grid, ``H, W`` the image.
"""

from enum import StrEnum
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]  # (height, width), always in this order

Place = TypeVar("Place", float, Tensor)

COARSEST = 32  # the coarsest stride of the pyramid; image sizes are padded to fit it


class Grid(StrEnum):
    """Where the samples of a downsampled map sit.

    ``CORNERS``: convolutional stems with symmetric padding (ResNet, MobileNet, EfficientNet).
    At sizes 32m+1 every level spans the image from corner to corner, so every resize is exact
    with ``align_corners=True``; this is why the paper trains on 513.
    ``CELLS``: patch stems, kernel = stride (ConvNeXt, Swin). At sizes 32m every sample is the
    centre of its patch, so ``align_corners=False`` is exact.
    """

    CORNERS = "corners"
    CELLS = "cells"

    def padded(self, size: Size) -> Size:
        """The next size, at least ``size``, on which this grid is exact."""
        height, width = size
        return self._padded_side(height), self._padded_side(width)

    def _padded_side(self, n: int) -> int:
        if self is Grid.CORNERS:
            return COARSEST * max(1, -(-(n - 1) // COARSEST)) + 1
        return COARSEST * -(-n // COARSEST)

    def finer(self, size: Size) -> Size:
        """The size of the level with half the stride."""
        height, width = size
        return (2 * height - 1, 2 * width - 1) if self is Grid.CORNERS else (2 * height, 2 * width)

    def resize(self, x: Tensor, size: Size) -> Tensor:
        """Bilinear resize of ``x`` (B, C, h, w) to (B, C, *size)."""
        if x.shape[-2:] == size:
            return x
        aligned = self is Grid.CORNERS
        return F.interpolate(x, size=size, mode="bilinear", align_corners=aligned)

    def resize_window(self, x: Tensor, size: Size, rows: slice, columns: slice) -> Tensor:
        """A window of the bilinear resize of ``x`` (C, H, W) to ``size``, in fp32, without the rest."""
        top, bottom, y_weight = self._lerp(x.shape[1], size[0], rows)
        left, right, x_weight = self._lerp(x.shape[2], size[1], columns)
        y0, x0 = int(top[0]), int(left[0])
        x = x[:, y0 : int(bottom[-1]) + 1, x0 : int(right[-1]) + 1].float().contiguous()
        x = torch.lerp(x[:, top - y0], x[:, bottom - y0], y_weight[:, None])
        return torch.lerp(x[..., left - x0], x[..., right - x0], x_weight)

    def bilinear(self, n_in: int, n_out: int, part: slice, device: torch.device) -> Tensor:
        """The resize of one axis from ``n_in`` to ``n_out`` samples as a matrix (part, n_in), fp32."""
        low, high, weight = (t.to(device) for t in self._lerp(n_in, n_out, part))
        matrix = torch.zeros(len(low), n_in, device=device)
        matrix.scatter_add_(1, low[:, None], 1 - weight[:, None])
        return matrix.scatter_add_(1, high[:, None], weight[:, None])

    def sources(self, n_in: int, n_out: int, part: slice) -> slice:
        """The samples of ``n_in`` that the outputs ``part`` of a resize of one axis are made of."""
        first = int(self._place(part.start, n_in, n_out))
        last = int(self._place(part.stop - 1, n_in, n_out))
        return slice(max(0, first), min(last + 2, n_in))

    def _lerp(self, n_in: int, n_out: int, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Lower sample, upper sample and the upper one's weight of some output positions."""
        i = torch.arange(part.start, part.stop, dtype=torch.float64)
        place = self._place(i, n_in, n_out).clamp(0, n_in - 1)
        low = place.long().clamp(max=n_in - 1)
        return low, (low + 1).clamp(max=n_in - 1), (place - low).float()

    def _place(self, i: Place, n_in: int, n_out: int) -> Place:
        """Where output sample i lies, in units of input samples."""
        if self is Grid.CORNERS:
            return i * (n_in - 1) / max(1, n_out - 1)
        return (i + 0.5) * n_in / n_out - 0.5

    def resize_labels(
        self,
        label: Tensor,
        size: Size,
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> Tensor:
        """Nearest resize of class ids (B, H, W) to (B, *size), on the same sampling points.

        ``rows`` and ``columns``: only that window of the result.
        """
        row_index = self._nearest(label.shape[-2], size[0], label.device)[rows]
        column_index = self._nearest(label.shape[-1], size[1], label.device)[columns]
        return label[:, row_index[:, None], column_index]

    def _nearest(self, n_in: int, n_out: int, device: torch.device) -> Tensor:
        i = torch.arange(n_out, device=device)
        if self is Grid.CORNERS:  # round half up of i · (n_in − 1) / (n_out − 1), in integers
            steps = max(1, n_out - 1)
            return (2 * i * (n_in - 1) + steps) // (2 * steps)
        return (2 * i + 1) * n_in // (2 * n_out)


class Frame(NamedTuple):
    """How one batch lies in the network: its own size, the padded size, and the grid.

    Padding is at the right and the bottom, with the value that is zero after normalisation.
    """

    image: Size
    padded: Size
    grid: Grid

    def restore(self, x: Tensor) -> Tensor:
        """A map (B, C, h, w) over the padded image → (B, C, H, W) over the image."""
        height, width = self.image
        return self.grid.resize(x, self.padded)[..., :height, :width]

    def labels_at(self, label: Tensor, size: Size, ignore: int) -> Tensor:
        """Labels (B, H, W) of the image → (B, *size) on the grid of a map over the padded image."""
        (height, width), (padded_height, padded_width) = self.image, self.padded
        margin = (0, padded_width - width, 0, padded_height - height)
        return self.grid.resize_labels(F.pad(label, margin, value=ignore), size)
