"""From a reader's value to the label map of the upright image."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image

from hfgd.data.deep import DEEP
from hfgd.data.formats.base import UNLABELLED, Annotated, Shape
from hfgd.data.images import TURNS, Header, Pixels, read_header
from hfgd.errors import HfgdError

OnOverlap = Literal["last", "first", "smallest"]
Size = tuple[int, int]


@dataclass
class Painted:
    """A label map (H, W) of class indices, UNLABELLED and IGNORE, and what it took to make it.

    ``overlaps``: pixels by (class on top, class below). ``contested``: pixels of several classes.
    ``turned``: 'stored' where the annotations were of the image as stored and were turned with it;
    'unsure' where the size does not tell, and they were taken for upright.
    """

    label: Pixels
    overlaps: Counter[tuple[int, int]] = field(default_factory=Counter)
    contested: int = 0
    empty: int = 0  # shapes that cover no pixel
    turned: Literal["", "stored", "unsure"] = ""


def make_label(item: Annotated, on_overlap: OnOverlap) -> Painted:
    """The label map of an image, turned upright by EXIF as the image is when it is read.

    Raises HfgdError for annotations that do not fit the image.
    """
    header = read_header(item.image)
    if header.mode in DEEP:
        raise HfgdError(
            f"image '{item.image}' has mode {header.mode}, more than 8 bits a channel; convert it "
            "to 8-bit RGB first."
        )
    _refuse_size(item, header, item.size)
    if item.mask is not None:
        _refuse_size(item, header, upright(read_header(item.mask)))
    if item.label is not None:
        painted = Painted(item.label())
    else:
        painted = paint(item.shapes, item.size or upright(header), on_overlap)
    stated: Size = item.size or (painted.label.shape[0], painted.label.shape[1])
    if painted.label.shape != stated:
        height, width = painted.label.shape
        raise HfgdError(
            f"{item.place} is of an image of {stated[0]}×{stated[1]} (height × width), and its "
            f"label image is {height}×{width}."
        )
    _turn(painted, header, stated, item)
    return painted


def paint(shapes: tuple[Shape, ...], size: Size, on_overlap: OnOverlap) -> Painted:
    """Shapes onto an empty map, one over the other."""
    label = np.full(size, UNLABELLED, dtype=np.uint8)
    painted, contested = Painted(label), np.zeros(size, dtype=bool)
    for shape in _from_below(shapes, size, on_overlap):
        mask = _mask(shape, size)
        painted.empty += not mask.any()
        below = mask & (label != UNLABELLED) & (label != shape.class_index)
        for index, count in enumerate(np.bincount(label[below])):
            if count:
                painted.overlaps[shape.class_index, index] += int(count)
        contested |= below
        label[mask] = shape.class_index
    painted.contested = int(contested.sum())
    return painted


def upright(header: Header) -> Size:
    """Height and width of an image after it was turned upright."""
    height, width = header.size
    return (width, height) if header.orientation in (5, 6, 7, 8) else (height, width)


def _from_below(shapes: tuple[Shape, ...], size: Size, on_overlap: OnOverlap) -> list[Shape]:
    """Shapes in the order in which they are painted."""
    order = list(shapes)
    if on_overlap == "first":
        order.reverse()
    elif on_overlap == "smallest":
        areas = [int(_mask(shape, size).sum()) for shape in shapes]
        order = [shapes[i] for i in np.argsort([-area for area in areas], kind="stable")]
    return sorted(order, key=lambda shape: not shape.below)


def _mask(shape: Shape, size: Size) -> np.ndarray:
    try:
        return shape.region.mask(*size)
    except HfgdError as error:
        raise HfgdError(f"{shape.place}: {error}") from error


def _refuse_size(item: Annotated, header: Header, stated: Size | None) -> None:
    """Refuse a size that is not the image's: before anything of that size is made."""
    if stated not in (None, upright(header), header.size):
        height, width = upright(header)
        raise HfgdError(
            f"{item.place} is of an image of {stated[0]}×{stated[1]} (height × width), and "
            f"'{item.image}' is {height}×{width}."
        )


def _turn(painted: Painted, header: Header, stated: Size, item: Annotated) -> None:
    """Bring the label to the upright image; its size tells which of the two it was made for."""
    _refuse_size(item, header, stated)
    if header.orientation not in TURNS:
        return
    if stated != upright(header):
        turned = Image.fromarray(painted.label).transpose(TURNS[header.orientation])
        painted.label, painted.turned = np.asarray(turned), "stored"
    elif stated == header.size or (item.size is None and item.label is None):
        painted.turned = "unsure"
