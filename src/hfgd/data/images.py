"""Reading image and label files, with one clear sentence for a file that cannot be read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from hfgd.data.archive import Source, opened
from hfgd.errors import HfgdError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
DEEP = ("I", "F", "I;16", "I;16B", "I;16L")  # modes with more than 8 bits a channel
EXIF_ORIENTATION = 0x0112
Pixels = npt.NDArray[np.uint8]
Ids = npt.NDArray[Any]  # whole numbers
T = TypeVar("T")


def read_image(source: "str | Source | Image.Image | np.ndarray") -> Pixels:
    """An image as (H, W, 3) uint8 RGB, turned upright by its EXIF orientation.

    Raises HfgdError for a missing, truncated or foreign file, and for an array of another form.
    """
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
            raise HfgdError(
                "an image array must be (H, W, 3) uint8 RGB, "
                f"not {source.shape} {source.dtype}; convert it first."
            )
        return source
    if isinstance(source, Image.Image):
        return _rgb(source, "the given image")
    path = Path(source) if isinstance(source, str) else source
    return _read(path, "image", lambda image: _rgb(image, str(source)))


def read_label(path: Source, colours: bool) -> Ids:
    """The raw values of a label file (H, W): ids, or RGB packed as r·65536 + g·256 + b.

    Palette PNGs give their palette index, or their colour where ``colours`` is asked for.
    """

    def values(image: Image.Image) -> Ids:
        if colours:
            if image.mode not in ("RGB", "RGBA", "P"):
                raise HfgdError(
                    f"label '{path}' holds single values (mode {image.mode}), and the label map "
                    "lists RGB colours; use ids in label_map or convert the file."
                )
            rgb = np.asarray(image.convert("RGB"), dtype=np.int64)
            return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
        if image.mode not in ("L", "P", "I", "I;16", "I;16B", "1"):
            raise HfgdError(
                f"label '{path}' is a colour image (mode {image.mode}), and the label map lists "
                "ids; list its colours in label_map or convert the file to one value a pixel."
            )
        return np.asarray(image)  # unsigned, or int32 for mode I

    return _read(path, "label", values)


class Header(NamedTuple):
    """What a file says of its image before the pixels: ``size`` is height and width as stored."""

    mode: str
    size: tuple[int, int]
    orientation: int  # EXIF: 1 as stored, 5 to 8 swap height and width
    palette: list[int] | None


def read_header(path: Source) -> Header:
    """Mode, stored size, EXIF orientation and palette of an image; raises as ``read_image``."""

    def header(image: Image.Image) -> Header:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        size = (image.height, image.width)
        return Header(image.mode, size, orientation, image.getpalette())

    return _read(path, "image", header)


def _rgb(image: Image.Image, name: str) -> Pixels:
    if image.mode in DEEP:
        raise HfgdError(
            f"{name} has mode {image.mode}, more than 8 bits a channel; convert it to 8-bit RGB."
        )
    return np.array(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.uint8)


def _read(path: Source, kind: str, read: Callable[[Image.Image], T]) -> T:
    try:
        with Image.open(opened(path)) as image:
            return read(image)
    except FileNotFoundError as error:
        raise HfgdError(f"{kind}: there is no file '{path}'.") from error
    except UnidentifiedImageError as error:
        raise HfgdError(f"{kind} '{path}' is no image that can be read.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise HfgdError(f"{kind} '{path}' is broken or truncated ({error}).") from error
