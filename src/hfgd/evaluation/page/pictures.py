"""Small pictures for a gallery: photographs, class ids and heat, as bytes of WebP and PNG."""

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hfgd.data.images import Pixels, open_image

SIDE = 400  # pixels of the longer side: 500 images with all their layers stay below 60 MB
QUALITY, HEAT_QUALITY = 70, 60  # of WebP


def small_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the small pictures of an image; nothing is enlarged."""
    share = min(1.0, SIDE / max(height, width))
    return max(1, round(share * height)), max(1, round(share * width))


def picks(length: int, count: int) -> npt.NDArray[np.int64]:
    """Which ``count`` of ``length`` rows or columns a small label map shows: those in the middle."""
    return (2 * np.arange(count, dtype=np.int64) + 1) * length // (2 * count)


def photo(pixels: Pixels) -> bytes:
    """(H, W, 3) uint8 RGB → a small WebP."""
    height, width = small_size(*pixels.shape[:2])
    image = Image.fromarray(pixels)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2)
    return _bytes(image, format="WEBP", quality=QUALITY, method=0)


def label_picture(ids: Pixels) -> bytes:
    """Class ids (H, W) uint8, at any size → a small grey PNG whose values are the ids."""
    return _bytes(Image.fromarray(_small(ids)), format="PNG", compress_level=6)


def heat(values: Pixels) -> bytes:
    """(H, W) uint8, 0 to 255 for 0 to 1, at any size → a small WebP."""
    grey = Image.fromarray(_small(values)).convert("RGB")
    return _bytes(grey, format="WEBP", quality=HEAT_QUALITY, method=0)


def pixels_of(picture: bytes) -> Pixels:
    """The values of ``label_picture`` or ``heat``, (h, w) uint8."""
    with open_image(BytesIO(picture)) as image:
        return np.asarray(image.convert("L"))


def _small(values: Pixels) -> Pixels:
    """Every so many rows and columns; what is small already stays as it is."""
    height, width = values.shape
    rows, columns = small_size(height, width)
    if (rows, columns) == (height, width):
        return np.ascontiguousarray(values)
    return values[picks(height, rows)][:, picks(width, columns)]


def _bytes(image: Image.Image, **how: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, **how)
    return buffer.getvalue()
