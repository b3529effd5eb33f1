"""COCO's run-length encoding of masks, with its lengths checked.

pycocotools reads the same, but gives a mask of left-over memory where the runs are too few.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from hfgd.errors import HfgdError

Mask = npt.NDArray[np.bool_]


def decode_mask(mask: dict[str, Any]) -> Mask:
    """COCO's run-length encoding → bool (H, W): runs down the columns, zeros first.

    ``counts`` are plain numbers, or COCO's text: five bits a character, each run after the third
    as the difference to the one before the last. Raises HfgdError where they are damaged.
    """
    height, width = mask["size"]
    counts = mask["counts"]
    if isinstance(counts, str | bytes):
        counts = _runs(counts if isinstance(counts, bytes) else counts.encode())
    if any(count < 0 for count in counts):
        raise HfgdError("a run-length mask has a negative run.")
    total = sum(counts)
    if total != height * width:
        raise HfgdError(f"a run-length mask covers {total} pixels instead of {height * width}.")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape((height, width), order="F")


def _runs(text: bytes) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64:
            raise HfgdError(f"a run-length mask holds the character {bytes([character])!r}.")
        if shift > 60:
            raise HfgdError("a run-length mask holds a number that no image reaches.")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:  # the last character of this number; bit 4 is its sign
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise HfgdError("a run-length mask ends within a number.")
    return runs


# ---- regions -------------------------------------------------------------------------------------


Ring = Sequence[float]  # x, y, x, y, …
FAR = 4.0  # a point further outside than this many sizes of the image is a mistake
OUTLINE = 5_000_000  # pixels along a polygon: pycocotools takes 80 bytes for each


class Region(Protocol):
    """Pixels of an image, however they were written down."""

    def mask(self, height: int, width: int) -> Mask:
        """The pixels, as bool (H, W). Raises HfgdError for what does not fit the image."""


@dataclass(frozen=True)
class Polygons:
    """The area inside of any of ``rings`` and of none of ``holes``.

    ``relative``: the numbers are shares of the image's width and height.
    """

    rings: tuple[Ring, ...]
    holes: tuple[Ring, ...] = ()
    relative: bool = False

    def mask(self, height: int, width: int) -> Mask:
        inside = self._fill(self.rings, height, width)
        if self.holes:
            inside &= ~self._fill(self.holes, height, width)
        return inside

    def _fill(self, rings: tuple[Ring, ...], height: int, width: int) -> Mask:
        scaled, most = [], 0.0  # most: no outline is longer
        for ring in rings:
            points = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
            if self.relative:
                points = points * (width, height)
            if len(points) < 3:
                continue  # it encloses nothing, and pycocotools would take four numbers for a box
            farthest = float(np.abs(points).max())
            if farthest > FAR * max(height, width):
                raise HfgdError(f"a point lies far outside of the image of {height}×{width}.")
            most += 2 * farthest * len(points)
            scaled.append(points)
        if not scaled:
            return np.zeros((height, width), dtype=bool)
        if most > OUTLINE and sum(map(_length, scaled)) > OUTLINE:
            raise HfgdError(f"its outline is longer than {OUTLINE:,} pixels, which no drawing is.")
        tools = cocotools()
        rings_xy = [points.ravel().tolist() for points in scaled]
        runs = tools.merge(tools.frPyObjects(rings_xy, height, width))
        return np.asarray(tools.decode(runs), dtype=bool)


def _length(points: np.ndarray) -> float:
    """Pixels along a closed outline of points (N, 2)."""
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


@dataclass(frozen=True)
class Ellipse:
    """Pixels whose centre is within an ellipse; ``angle`` in degrees, clockwise."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    angle: float = 0.0

    def mask(self, height: int, width: int) -> Mask:
        if min(self.radius_x, self.radius_y) <= 0:
            return np.zeros((height, width), dtype=bool)
        across, down = np.arange(width) + 0.5 - self.x, np.arange(height)[:, None] + 0.5 - self.y
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        along, beside = across * cos + down * sin, down * cos - across * sin
        result: Mask = (along / self.radius_x) ** 2 + (beside / self.radius_y) ** 2 <= 1
        return result


@dataclass(frozen=True)
class Runs:
    """COCO's run-length encoding: ``size`` and ``counts``."""

    runs: dict[str, Any]

    def mask(self, height: int, width: int) -> Mask:
        size = self.runs["size"]  # claimed; nothing of it is made before it is seen to be right
        if tuple(size) != (height, width):
            raise HfgdError(
                f"the mask is {size[0]}×{size[1]} (height × width), and its image is "
                f"{height}×{width}."
            )
        return decode_mask(self.runs)


@dataclass(frozen=True)
class Spans:
    """Kaggle's run-length encoding: ``spans`` of (first pixel, length), counted from 1.

    ``order``: down the columns, or along the rows.
    """

    spans: tuple[tuple[int, int], ...]
    order: Literal["columns", "rows"] = "columns"

    def mask(self, height: int, width: int) -> Mask:
        flat = np.zeros(height * width, dtype=bool)
        for first, length in self.spans:
            if first < 1 or length < 1 or first + length - 1 > flat.size:
                raise HfgdError(
                    f"the run '{first} {length}' is not within the {flat.size} pixels of an image "
                    f"of {height}×{width}."
                )
            flat[first - 1 : first - 1 + length] = True
        return flat.reshape((height, width), order="F" if self.order == "columns" else "C")


@dataclass(frozen=True)
class Patch:
    """A small mask, and where its corner lies in the image.

    ``read`` makes it for an image of that height and width, and refuses one that is far larger.
    """

    read: Callable[[int, int], Mask]
    left: int = 0
    top: int = 0
    clip: bool = False  # what sticks out of the image is cut off, and no mistake

    def mask(self, height: int, width: int) -> Mask:
        patch = self.read(height, width)
        bottom, right = self.top + patch.shape[0], self.left + patch.shape[1]
        if not self.clip and (min(self.left, self.top) < 0 or bottom > height or right > width):
            raise HfgdError(
                f"its mask of {patch.shape[0]}×{patch.shape[1]} at ({self.left}, {self.top}) "
                f"sticks out of the image of {height}×{width}."
            )
        whole = np.zeros((height, width), dtype=bool)
        top, left = min(max(self.top, 0), height), min(max(self.left, 0), width)
        rows = slice(max(top - self.top, 0), max(height - self.top, 0))
        columns = slice(max(left - self.left, 0), max(width - self.left, 0))
        seen = patch[rows, columns]
        whole[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
        return whole


def refuse_large(size: tuple[int, int], height: int, width: int) -> None:
    """Raise HfgdError for a mask (height, width) far larger than its image, before it is made."""
    if size[0] > FAR * height or size[1] > FAR * width:
        raise HfgdError(
            f"its mask of {size[0]}×{size[1]} is far larger than the image of {height}×{width}."
        )


def box(left: float, top: float, right: float, bottom: float) -> Polygons:
    """A rectangle, whichever two opposite corners are given."""
    return Polygons(((left, top, right, top, right, bottom, left, bottom),))


def cocotools() -> ModuleType:
    """pycocotools' masks, or one sentence where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise HfgdError(
            "polygons need pycocotools, which is not installed; pip install 'hfgd[import]'."
        ) from error
    module: ModuleType = mask
    return module
