"""Reading image files, with one clear sentence for a file that cannot be read."""

import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import (
    IMAGELENGTH,
    IMAGEWIDTH,
    SAMPLESPERPIXEL,
    TiffImageFile,
)

from hfgd.data.archive import Source, files_below, opened
from hfgd.data.deep import mend_tiff, refuse_deep, scaling, unread_tiff
from hfgd.errors import HfgdError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
# all that is ever decoded, whatever a file is called: Pillow knows others that start a program
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
EXIF_ORIENTATION = 0x0112
# EXIF orientation → what turns the stored image upright (PIL's exif_transpose does the same)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SUBFILE = 254  # TIFF: what a page is
_SMALLER_OR_MASK = 0b101  # bits of it: an overview of another page, a transparency mask
EXTRAS = {  # what is not read of an image, as a sentence says it
    "pages": "several pages or frames; only the first one is read",
    "bands": "further bands; only red, green and blue, or the one grey band, are read",
    "alpha": "an alpha channel; it is not used",
}
Pixels = npt.NDArray[np.uint8]
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
    image = Image.open(file, formats=formats)
    mend_tiff(image)
    return image


def images_below(folder: Path) -> list[Path]:
    """Every image file below a folder, in order; links are followed, hidden files left out."""
    return [p for p in files_below(folder) if _is_image(p) and not p.name.startswith(".")]


def without_suffix(path: Path) -> Path:
    """A path without the suffix of a picture; 'frame_0.5' has none and stays as it is."""
    known = path.suffix.lower() in Image.registered_extensions()
    return path.with_suffix("") if known else path


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


class UnreadTiff(HfgdError):
    """A sound TIFF of more bands or other numbers than PIL reads."""


@dataclass
class Met:
    """What a file holds besides the pixels that are read.

    ``extras``: keys of ``EXTRAS``. ``orientation``: of EXIF, 1 where nothing was turned.
    """

    extras: list[str] = field(default_factory=list)
    orientation: int = 1


def describe_extras(extras: Iterable[str], total: int, things: str) -> list[str]:
    """A sentence for each kind of extra: how many of ``total`` images have it, and what is used."""
    counts = Counter(extras)
    return [
        f"{counts[kind]:,} of {total:,} {things} have {what}"
        for kind, what in EXTRAS.items()
        if counts[kind]
    ]


def read_image(source: "str | Source | Image.Image | np.ndarray", met: Met | None = None) -> Pixels:
    """An image as (H, W, 3) uint8 RGB, turned upright by its EXIF orientation.

    Arrays are (H, W, 3) or grey (H, W) uint8, tensors (3, H, W) uint8. ``met`` gets what the file holds
    besides. Raises HfgdError for a missing, truncated or foreign file, and for an array of another
    form.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if type(source) in (list, tuple, bytes, int, float, dict, type(None)):
        raise HfgdError(
            f"an image is a path, a PIL image or an array (H, W, 3) uint8 RGB, not a "
            f"{type(source).__name__}; of several images give one at a time."
        )
    if type(source).__module__.split(".")[0] == "torch":  # not imported here
        return _from_tensor(source)
    if isinstance(source, Image.Image):
        return _rgb(source, "the given image", met)
    path = Path(source) if isinstance(source, str) else source
    return read_file(path, "image", lambda image: _rgb(image, f"image '{source}'", met, path))


def extras_of(image: Image.Image) -> list[str]:
    """The keys of ``EXTRAS`` that hold for an open file, by its header."""
    extras = ["pages"] if has_more_pages(image) else []
    if isinstance(image, TiffImageFile) and image.tag_v2.get(SAMPLESPERPIXEL, 1) > len(
        image.getbands()
    ):
        extras.append("bands")
    # not Pillow's has_transparency_data: it asserts that an image with indices has its palette
    palette = "" if image.palette is None else image.palette.mode
    clear = f"{image.mode} {palette}".upper()
    alpha = "transparency" in image.info or any(word.endswith("A") for word in clear.split())
    return [*extras, "alpha"] if alpha else extras


def _from_array(array: npt.NDArray[Any]) -> Pixels:
    """An array as (H, W, 3) uint8 RGB that PyTorch can share: it takes no negative strides."""
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] == 3)):
        advice = "convert it first"
        if array.dtype.kind == "f":
            advice = "give (255 * array).round().astype('uint8') where it is in [0, 1]"
        raise HfgdError(
            f"an image array must be (H, W, 3) uint8 RGB, not {array.shape} {array.dtype}; {advice}."
        )
    if not array.size:
        raise HfgdError(f"an image array must have pixels, and its shape is {array.shape}.")
    rgb = np.repeat(array[..., None], 3, axis=2) if grey else array
    return np.require(rgb, requirements=["C", "W"])


def _from_tensor(tensor: Any) -> Pixels:
    """A tensor (3, H, W) uint8 RGB, as data sets give it, as an array (H, W, 3)."""
    if tensor.ndim != 3 or tensor.shape[0] != 3 or str(tensor.dtype) != "torch.uint8":
        raise HfgdError(
            f"an image tensor must be (3, H, W) uint8 RGB, not {tuple(tensor.shape)} "
            f"{str(tensor.dtype).removeprefix('torch.')}; convert it first."
        )
    return _from_array(tensor.detach().cpu().permute(1, 2, 0).numpy())


def has_more_pages(image: Image.Image) -> bool:
    """Whether an open file has a second page or frame; overviews and masks of a TIFF are none."""
    if not isinstance(image, TiffImageFile):
        return getattr(image, "n_frames", 1) > 1
    found, number = False, 1
    try:
        while not found:
            image.seek(number)
            found = not image.tag_v2.get(_SUBFILE, 0) & _SMALLER_OR_MASK
            number += 1
    except EOFError:
        pass
    image.seek(0)
    mend_tiff(image)
    return found


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
        if isinstance(image, TiffImageFile):  # of which PIL gives the size after turning it
            size = (image.tag_v2[IMAGELENGTH], image.tag_v2[IMAGEWIDTH])
        return Header(image.mode, size, orientation, image.getpalette())

    return read_file(path, "image", header)


def _rgb(image: Image.Image, name: str, met: Met | None, path: Source | None = None) -> Pixels:
    refuse_deep(image, name, path)
    if met is not None:
        met.extras += extras_of(image)
        met.orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    return np.array(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.uint8)


def read_file(path: Source, kind: str, read: Callable[[Image.Image], T]) -> T:
    """What ``read`` makes of an open file; raises HfgdError, which calls it a ``kind``."""
    try:
        with open_image(opened(path)) as image:
            return read(image)
    except FileNotFoundError as error:
        raise HfgdError(f"{kind}: there is no file '{path}'.") from error
    except UnidentifiedImageError as error:
        found = unread_tiff(path)
        if found is not None:
            raise UnreadTiff(
                f"{kind} '{path}' is {found}, which Pillow does not read; convert it to 8-bit RGB"
                f"{scaling(path)}."
            ) from error
        raise HfgdError(
            f"{kind} '{path}' is no image that can be read ({', '.join(FORMATS)})."
        ) from error
    except Image.DecompressionBombError as error:  # "Image size (N pixels) exceeds …"
        stated = re.search(r"\((\d+) pixels", str(error))
        count = f"{int(stated[1]):,}" if stated else "too many"
        raise HfgdError(
            f"{kind} '{path}' has {count} pixels, and at most {2 * (Image.MAX_IMAGE_PIXELS or 0):,} "
            "are read; scale it down, or cut it into tiles."
        ) from error
    except BROKEN as error:
        raise HfgdError(f"{kind} '{path}' is broken or truncated ({error}).") from error
