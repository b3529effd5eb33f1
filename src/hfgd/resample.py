"""Every way from one size to another: the only bilinear and the only nearest resize.

Four bilinear paths, one rule of where samples lie (``_place``): the whole map (``resize``), a window
of the result without the rest (``resize_window``), bands of rows as two small matrices
(``bands``: the losses, which need the transpose), and strips of rows for the pixels that a window
of a scaled image sees (``strips``: inference). Index tables are made in NumPy, in double precision,
once for each device: a training step copies none of them.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hfgd.types import Frame, Grid, Size, Spans

# values of a band or strip: on a CPU what its caches hold, elsewhere few and large kernels
BAND_CPU, BAND = 1 << 22, 1 << 25  # 16 and 128 MiB in fp32


def resize(x: Tensor, size: Size, grid: Grid) -> Tensor:
    """Bilinear resize of ``x`` (B, C, h, w) to (B, C, *size)."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=grid is Grid.CORNERS)


def restore(x: Tensor, frame: Frame) -> Tensor:
    """A map (B, C, h, w) over the padded image → (B, C, H, W) over the image."""
    height, width = frame.image
    return resize(x, frame.padded, frame.grid)[..., :height, :width]


def resize_window(x: Tensor, size: Size, rows: slice, columns: slice, grid: Grid) -> Tensor:
    """A window of the bilinear resize of ``x`` (C, H, W) to ``size``, in fp32, without the rest."""
    top, bottom, y_weight = _lerp(grid, x.shape[1], size[0], rows.start, rows.stop)
    left, right, x_weight = _lerp(grid, x.shape[2], size[1], columns.start, columns.stop)
    y0, x0 = int(top[0]), int(left[0])
    x = x[:, y0 : int(bottom[-1]) + 1, x0 : int(right[-1]) + 1].float().contiguous()
    x = torch.lerp(x[:, top - y0], x[:, bottom - y0], torch.from_numpy(y_weight)[:, None])
    return torch.lerp(x[..., left - x0], x[..., right - x0], torch.from_numpy(x_weight))


def resize_labels(
    label: Tensor,
    size: Size,
    grid: Grid,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> Tensor:
    """Nearest resize of class ids (B, H, W) to (B, *size), on the same sampling points.

    ``rows`` and ``columns``: only that window of the result.
    """
    row_index = _nearest(grid, label.shape[-2], size[0], label.device)[rows]
    column_index = _nearest(grid, label.shape[-1], size[1], label.device)[columns]
    return label[:, row_index[:, None], column_index]


def labels_at(label: Tensor, size: Size, frame: Frame, ignore: int) -> Tensor:
    """Labels (B, H, W) of the image → (B, *size) on the grid of a map over the padded image."""
    (height, width), (padded_height, padded_width) = frame.image, frame.padded
    margin = (0, padded_width - width, 0, padded_height - height)
    return resize_labels(F.pad(label, margin, value=ignore), size, frame.grid)


# ---- bands: matrices, for the losses -----------------------------------------------------------


def bands(
    logits: Tensor, frame: Frame, band: int | None = None
) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor]]:
    """Bands of the image's rows: rows, the map's rows below them, both matrices, upsampled logits.

    ``logits`` (B, K, h, w) lie over the padded image. With ``vertical`` (rows, source) and
    ``horizontal`` (W, w) a band (B, K, rows, W) is ``vertical @ logits[:, :, source] @ horizontalᵀ``.
    ``band``: values of a band; what suits the device without it.
    """
    (height, width), (padded_height, padded_width), grid = frame
    batch, classes, h, w = logits.shape
    device = logits.device
    horizontal = _matrix(grid, w, padded_width, width, device)
    whole = _matrix(grid, h, padded_height, height, device)
    count = max(1, (band or band_values(device)) // (batch * classes * width))
    for start in range(0, height, count):
        rows = slice(start, min(start + count, height))
        source = sources(grid, h, padded_height, rows)
        vertical = whole[rows, source]
        yield rows, source, vertical, horizontal, vertical @ (logits[:, :, source] @ horizontal.t())


def band_values(device: torch.device) -> int:
    """How many values a band or strip may hold on this device."""
    return BAND_CPU if device.type == "cpu" else BAND


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _matrix(grid: Grid, n_in: int, n_out: int, stop: int, device: torch.device) -> Tensor:
    """``matrix_table``, which torch.compile looks up and does not trace."""
    return matrix_table(grid, n_in, n_out, stop, device)


@lru_cache(maxsize=256)
def matrix_table(grid: Grid, n_in: int, n_out: int, stop: int, device: torch.device) -> Tensor:
    """The first ``stop`` outputs of a resize of one axis as a matrix (stop, n_in), fp32."""
    low, high, weight = _lerp(grid, n_in, n_out, 0, stop)
    matrix = np.zeros((stop, n_in), dtype=np.float32)
    rows = np.arange(stop)
    matrix[rows, low] += 1 - weight
    matrix[rows, high] += weight
    return _tensor(matrix, device)


def sources(grid: Grid, n_in: int, n_out: int, part: slice) -> slice:
    """The samples of ``n_in`` that the outputs ``part`` of a resize of one axis are made of."""
    first = int(_place(grid, part.start, n_in, n_out))
    last = int(_place(grid, part.stop - 1, n_in, n_out))
    return slice(max(0, first), min(last + 2, n_in))


# ---- strips: for the pixels that a window of a scaled image sees --------------------------------


class Axis(NamedTuple):
    """Where the pixels of the image along one axis lie on a window's low-resolution map.

    ``first`` and ``last`` bound the pixels that the window sees; ``low``, ``high`` and ``weight``
    are the two samples around each of them; ``share`` is 1 / number of windows that see it.
    """

    first: int
    last: int
    low: Tensor
    high: Tensor
    weight: Tensor
    share: Tensor


@lru_cache(maxsize=2048)
def window_axis(
    grid: Grid,
    side: int,
    scaled: int,
    spans: Spans,
    window: int,
    padded: int,
    count: int,
    flip: bool,
    device: torch.device,
) -> Axis:
    """The Axis of one of the windows ``spans`` over a side of ``side`` pixels scaled to ``scaled``.

    ``window``: its number; ``padded``: its side as the network pads it; ``count``: samples of its map.
    A pixel that falls between two windows (which can happen where they only touch) is seen by the
    nearer one, so that every pixel is seen.
    """
    i = np.arange(side, dtype=np.float64)
    i = i[::-1] if flip else i
    place = _place(grid, i, scaled, side)  # the pixel in the scaled image
    begins = np.array([begin for begin, _ in spans], dtype=np.float64)[:, None]
    ends = np.array([begin + n - 1 for begin, n in spans], dtype=np.float64)[:, None]
    edge = 1e-6 if grid is Grid.CORNERS else 0.5
    seen = (place >= begins - edge) & (place <= ends + edge)
    alone = np.flatnonzero(~seen.any(0))
    away = np.maximum(begins - place[alone], place[alone] - ends)
    seen[away.argmin(0), alone] = True
    mine = np.flatnonzero(seen[window])
    first, last = (int(mine[0]), int(mine[-1]) + 1) if len(mine) else (0, 0)
    inside = place[first:last] - spans[window][0]
    position = np.clip(_place(grid, inside, count, padded), 0, count - 1)
    low = position.astype(np.int64)
    share = 1 / np.maximum(seen.sum(0)[first:last], 1)
    weight = (position - low).astype(np.float32)
    tables = (low, np.minimum(low + 1, count - 1), weight, share.astype(np.float32))
    return Axis(first, last, *(_tensor(table, device) for table in tables))


def image_axis(frame: Frame, axis: int, count: int, device: torch.device) -> Axis:
    """The Axis of a whole image at its own scale, on a map of ``count`` samples."""
    side = frame.image[axis]
    spans = ((0, side),)
    return window_axis(frame.grid, side, side, spans, 0, frame.padded[axis], count, False, device)


def strips(logits: Tensor, y: Axis, x: Axis) -> Iterator[tuple[slice, Tensor]]:
    """Bilinear logits (rows, columns, K) for the pixels of two axes, some rows at a time.

    ``logits`` (K, h, w). Yields the image's rows and the values, fp32. Classes come last: a pixel's
    values then lie together, which is a third of the time of classes first (benchmarks/inference.md).
    """
    rows = max(1, band_values(logits.device) // max(1, len(logits) * len(x.low)))
    logits = logits.permute(1, 2, 0).float().contiguous()  # as channels last has them already
    for start in range(0, len(y.low), rows):
        part = slice(start, start + rows)
        low, high = logits.index_select(0, y.low[part]), logits.index_select(0, y.high[part])
        lines = torch.lerp(low, high, y.weight[part, None, None])  # (rows, w, K)
        low, high = lines.index_select(1, x.low), lines.index_select(1, x.high)
        strip = torch.lerp(low, high, x.weight[:, None])
        first = y.first + start
        yield slice(first, first + len(strip)), strip


# ---- where samples lie ----------------------------------------------------------------------------


def _place(grid: Grid, i: Any, n_in: int, n_out: int) -> Any:
    """Where output sample i lies, in units of input samples: a number, or an array of them."""
    if grid is Grid.CORNERS:
        return i * (n_in - 1) / max(1, n_out - 1)
    return (i + 0.5) * n_in / n_out - 0.5


def _lerp(
    grid: Grid, n_in: int, n_out: int, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower sample, upper sample and the upper one's weight of some output positions."""
    place = np.clip(
        _place(grid, np.arange(start, stop, dtype=np.float64), n_in, n_out), 0, n_in - 1
    )
    low = place.astype(np.int64)
    return low, np.minimum(low + 1, n_in - 1), (place - low).astype(np.float32)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _nearest(grid: Grid, n_in: int, n_out: int, device: torch.device) -> Tensor:
    """``nearest_table``, which torch.compile looks up and does not trace."""
    return nearest_table(grid, n_in, n_out, device)


@lru_cache(maxsize=256)
def nearest_table(grid: Grid, n_in: int, n_out: int, device: torch.device) -> Tensor:
    """The input sample (n_out,) int64 that is nearest to each output sample."""
    i = np.arange(n_out)
    if grid is Grid.CORNERS:  # round half up of i · (n_in − 1) / (n_out − 1), in integers
        steps = max(1, n_out - 1)
        return _tensor((2 * i * (n_in - 1) + steps) // (2 * steps), device)
    return _tensor((2 * i + 1) * n_in // (2 * n_out), device)


def _tensor(values: Any, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what inference made first, training may use too
        return torch.tensor(values, device=device)
