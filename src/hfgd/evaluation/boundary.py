"""Boundary IoU [Cheng et al., 2021] for many classes at once.

A pixel belongs to the boundary of its class if another class, or the border of the image, is within
``width`` pixels of it (chessboard distance; a share of the image diagonal, 2 % by default). The
boundary IoU of a class is the IoU of its boundary pixels in the label and in the prediction.

Ignored pixels are left out, and nothing next to them becomes boundary for that reason alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hfgd.data.classes import IGNORE

WIDTH = 0.02  # of the image diagonal, as in the original


def boundary_pixels(size: tuple[int, int], share: float = WIDTH) -> int:
    """The width in pixels for an image of this size, at least 1."""
    height, width = size
    return max(1, round(share * math.hypot(height, width)))


def boundary_counts(prediction: Tensor, label: Tensor, num_classes: int, width: int) -> Tensor:
    """Intersection and union of boundary pixels per class: (2, K) int64. Both maps are (H, W)."""
    valid = label != IGNORE
    of_label = boundary_map(label, valid, width) & valid
    of_prediction = boundary_map(prediction, valid, width) & valid
    both = of_label & of_prediction & (label == prediction)

    def per_class(ids: Tensor, chosen: Tensor) -> Tensor:
        index = ids.long().masked_fill(~chosen, num_classes).flatten()
        counts = torch.zeros(num_classes + 1, dtype=torch.int64, device=ids.device)
        return counts.scatter_add_(0, index, torch.ones_like(index))[:-1]  # waits for nothing

    inter = per_class(label, both)
    union = per_class(label, of_label) + per_class(prediction, of_prediction) - inter
    return torch.stack([inter, union])


def boundary_map(ids: Tensor, valid: Tensor, width: int) -> Tensor:
    """Which pixels (H, W) see another valid class, or the border, within ``width`` pixels."""
    as_float = ids.float()
    highest = _window_max(torch.where(valid, as_float, -1.0), width)
    lowest = -_window_max(torch.where(valid, -as_float, -1000.0), width)
    near_other = (highest > as_float) | (lowest < as_float)
    height, columns = ids.shape
    rows = torch.arange(height, device=ids.device)
    across = torch.arange(columns, device=ids.device)
    near_border = torch.minimum(rows, height - 1 - rows)[:, None] < width
    return near_other | near_border | (torch.minimum(across, columns - 1 - across) < width)


def _window_max(x: Tensor, width: int) -> Tensor:
    """Maximum over a square of 2·width + 1 pixels a side, one axis after the other."""
    side = 2 * width + 1
    x = F.max_pool2d(x[None, None], (side, 1), stride=1, padding=(width, 0))
    return F.max_pool2d(x, (1, side), stride=1, padding=(0, width))[0, 0]
