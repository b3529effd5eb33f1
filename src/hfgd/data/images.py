"""Reading image and label files, with one clear sentence for a file that cannot be read."""

import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from hfgd.data.archive import Source, files_below, opened
from hfgd.errors import HfgdError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
# all that is ever decoded, whatever a file is called: Pillow knows others that start a program
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
DEEP = ("I", "F", "I;16", "I;16B", "I;16L")  # modes with more than 8 bits a channel
EXIF_ORIENTATION = 0x0112
Pixels = npt.NDArray[np.uint8]
Ids = npt.NDArray[Any]  # whole numbers
T = TypeVar("T")
# what PIL raises for damaged files, beside its own UnidentifiedImageError, an OSError
BROKEN = (
    OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError, IndexError, KeyError,
    TypeError, AttributeError, OverflowError, ZeroDivisionError, NotImplementedError,
    Image.DecompressionBombError,
)  # fmt: skip

# PIL refuses an image of more than 179 million pixels (twice MAX_IMAGE_PIXELS), and of more than
# half of that it warns as of an attack: such pictures are read, without the warning.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


def open_image(file: "str | Path | IO[bytes]", formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open an image file in one of these formats; raises as ``PIL.Image.open``.

    Every image that hfgd reads is opened here, since Pillow alone decides by the content: it gives
    a PostScript file called photo.png to Ghostscript, which runs it.
    """
    return Image.open(file, formats=formats)


def images_below(folder: Path) -> list[Path]:
    """Every image file below a folder, in order; links are followed, hidden files left out."""
    return [p for p in files_below(folder) if _is_image(p) and not p.name.startswith(".")]


def without_suffix(path: Path) -> Path:
    """A path without the suffix of a picture; 'frame_0.5' has none and stays as it is."""
    known = path.suffix.lower() in Image.registered_extensions()
    return path.with_suffix("") if known else path


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


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
    return _read(path, "image", lambda image: _rgb(image, f"image '{source}'"))


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
            _refuse_deep(image, f"label '{path}'")
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
    _refuse_deep(image, name)
    return np.array(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.uint8)


def _refuse_deep(image: Image.Image, name: str) -> None:
    """Refuse what would lose bits. Of 16-bit colours PIL keeps the upper 8 and says nothing, so the
    file's own header is asked, which a picture has until its pixels are loaded.
    """
    deep = image.mode in DEEP
    if isinstance(image, TiffImageFile):
        deep |= max(image.tag_v2.get(BITSPERSAMPLE, (8,))) > 8
    if isinstance(image, PngImageFile) and image.tile:
        deep |= ";16" in str(image.tile[0][3])  # the raw mode, such as 'RGB;16B'
    if deep:
        raise HfgdError(
            f"{name} has more than 8 bits a channel (mode {image.mode}); convert it to 8-bit RGB."
        )


def _read(path: Source, kind: str, read: Callable[[Image.Image], T]) -> T:
    try:
        with open_image(opened(path)) as image:
            return read(image)
    except FileNotFoundError as error:
        raise HfgdError(f"{kind}: there is no file '{path}'.") from error
    except UnidentifiedImageError as error:
        raise HfgdError(
            f"{kind} '{path}' is no image that can be read ({', '.join(FORMATS)})."
        ) from error
    except Image.DecompressionBombError as error:  # "Image size (N pixels) exceeds …"
        found = re.search(r"\((\d+) pixels", str(error))
        count = f"{int(found[1]):,}" if found else "too many"
        raise HfgdError(
            f"{kind} '{path}' has {count} pixels, and at most {2 * (Image.MAX_IMAGE_PIXELS or 0):,} "
            "are read; scale it down, or cut it into tiles."
        ) from error
    except BROKEN as error:
        raise HfgdError(f"{kind} '{path}' is broken or truncated ({error}).") from error
