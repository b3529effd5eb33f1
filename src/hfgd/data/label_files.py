"""Reading label files: the values as they are stored, whatever a viewer would show."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from hfgd.data.archive import Source, read_bytes
from hfgd.data.deep import raw_mode, refuse_deep, unread_tiff
from hfgd.data.images import UnreadTiff, has_more_pages, read_file
from hfgd.errors import HfgdError

Ids = npt.NDArray[Any]  # whole numbers
SINGLE = ("L", "P", "I", "I;16", "I;16B", "1", "F", "LA", "PA")  # one value a pixel
COLOURS = ("RGB", "RGBA", "P", "PA")
# of a decoder: "L;4" are 4-bit numbers that PIL spreads over 0 to 255, "L;I" inverted ones
_SPREAD = {"L;2": 85, "L;4": 17}
_EXIF = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # where an orientation may be
_TRANSPARENT = {"LA", "PA", "RGBA"}


def read_label(path: Source, colours: bool, extras: list[str] | None = None) -> Ids:
    """The stored values of a label file (H, W): ids, or RGB packed as r·65536 + g·256 + b.

    Palette files give their index, or their colour where ``colours`` is asked for. Grey files of 1,
    2 and 4 bits give the numbers as stored; so do TIFFs where 0 is white. The label is turned by
    its own EXIF orientation. ``extras`` gets 'alpha' for a file with a channel that is not read.
    Raises HfgdError for a file with several pages, and for values that are no whole numbers.
    """

    def values(image: Image.Image) -> Ids:
        if has_more_pages(image):
            raise HfgdError(
                f"label '{path}' has several pages or frames, and a label has one; "
                "keep the page that belongs to the image."
            )
        if extras is not None and image.mode in _TRANSPARENT:
            extras.append("alpha")
        return _colours(image, path) if colours else _ids(image, path)

    try:
        return read_file(path, "label", values)
    except UnreadTiff:
        if colours:
            raise
        return _by_rasterio(path)


def _colours(image: Image.Image, path: Source) -> Ids:
    if image.mode not in COLOURS:
        what = "holds single values" if image.mode in SINGLE else "is no RGB image"
        raise HfgdError(
            f"label '{path}' {what} (mode {image.mode}), and the label map "
            "lists RGB colours; use ids in label_map or convert the file."
        )
    refuse_deep(image, f"label '{path}'")
    rgb = np.asarray(_upright(image).convert("RGB"), dtype=np.int64)
    return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]


def _ids(image: Image.Image, path: Source) -> Ids:
    if image.mode not in SINGLE:
        raise HfgdError(
            f"label '{path}' is a colour image (mode {image.mode}), and the label map lists "
            "ids; list its colours in label_map or convert the file to one value a pixel."
        )
    raw = raw_mode(image)
    values = np.asarray(_upright(image))
    if image.mode in _TRANSPARENT:
        return _opaque(values, path)
    if image.mode == "1":
        return values.astype(np.uint8) ^ np.uint8(raw in ("1;I", "1;IR"))
    if image.mode == "L":
        inverted = raw.partition(";")[2].strip("24R") == "I"
        return (~values if inverted else values) // np.uint8(_SPREAD.get(raw[:3], 1))
    return whole_numbers(values, path) if image.mode == "F" else values


def _upright(image: Image.Image) -> Image.Image:
    """The label turned by its EXIF orientation; a TIFF is turned when it is loaded."""
    image.load()
    has_exif = isinstance(image, TiffImageFile) or not _EXIF.isdisjoint(image.info)
    return ImageOps.exif_transpose(image) if has_exif else image


def _opaque(values: Ids, path: Source) -> Ids:
    """The first of two channels, where the second says nothing."""
    if (values[..., 1] != 255).any():
        raise HfgdError(
            f"label '{path}' has transparent pixels, which stand for no class; save it without "
            "an alpha channel, with the id of each pixel."
        )
    return values[..., 0]


def whole_numbers(values: Ids, path: Source) -> Ids:
    """Floating-point ids as whole numbers; raises HfgdError where one is not."""
    odd = ~np.isfinite(values) | (values != np.rint(values)) | (np.abs(values) >= 1 << 31)
    if odd.any():
        raise HfgdError(
            f"label '{path}' holds numbers that are no ids, {values[odd][0]:g} for one; write "
            "whole numbers (gdal_rasterize: -ot Byte, -a_nodata 255)."
        )
    return values.astype(np.int32)


def _by_rasterio(path: Source) -> Ids:
    """A TIFF of numbers that PIL does not know: 64 bits, say, the default of gdal_rasterize."""
    try:
        from rasterio.errors import RasterioError
        from rasterio.io import MemoryFile
    except ImportError as error:
        raise HfgdError(
            f"label '{path}' is {unread_tiff(path)}, which pip install 'hfgd[tiff]' reads; or "
            "write ids of 8 bits (gdal_rasterize: -ot Byte)."
        ) from error
    try:
        with MemoryFile(read_bytes(path)) as memory, memory.open(driver="GTiff") as file:
            if file.count > 1:
                raise HfgdError(f"label '{path}' has {file.count} bands, and a label has one.")
            values = file.read(1)
    except RasterioError as error:
        raise HfgdError(f"label '{path}' is broken or truncated ({error}).") from error
    whole = values.dtype.kind in "iu"
    return values.astype(np.int64) if whole else whole_numbers(values, path)
