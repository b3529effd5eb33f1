"""Images with more than 8 bits a channel: how they are found, and the command that scales one."""

import json
import os
import shlex
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    FILLORDER,
    IMAGELENGTH,
    IMAGEWIDTH,
    OPEN_INFO,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    ImageFileDirectory_v2,
    TiffImageFile,
)

from hfgd.data.archive import Source, opened
from hfgd.errors import HfgdError

DEEP = ("I", "F", "I;16", "I;16B", "I;16L")  # modes with more than 8 bits a channel
_READERS = {
    "PIL": "from PIL import Image; a = np.asarray(Image.open({path}))",
    "rasterio": "from PIL import Image; import rasterio; a = rasterio.open({path}).read(); "
    "a = np.moveaxis(a[:3], 0, 2) if len(a) > 2 else a[0]",
}
_SCALE = (
    "import numpy as np; {read}; a = np.nan_to_num(a.astype(float)); lo, hi = {low}, {high}; "
    "a = np.clip(np.rint((a - lo) * 255 / (hi - lo)), 0, 255); "
    'Image.fromarray(a.astype("uint8")).save({out})'
)


def refuse_deep(image: Image.Image, name: str, path: Source | None = None) -> None:
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
            f"{name} has more than 8 bits a channel (mode {image.mode}); convert it to 8-bit RGB"
            f"{_advice(image, path)}."
        )


def mend_tiff(image: Image.Image) -> None:
    """Have PIL read three kinds of TIFF rightly that it gets wrong. Call it before the pixels load.

    Compressed big-endian numbers of 16 and 32 bits (their bytes are swapped twice); one band that
    is stored in planes; an uncompressed picture that its orientation lays on the side.
    """
    if not isinstance(image, TiffImageFile) or not image.tile:
        return
    tags, raw = image.tag_v2, raw_mode(image)
    if image.tile[0].codec_name == "libtiff":
        raw = raw.replace("B", "N") if _swapped(image) else raw
    else:
        image._size = (tags[IMAGEWIDTH], tags[IMAGELENGTH])
        if tags.get(PLANAR_CONFIGURATION) != 2 or len(image.getbands()) > 1:
            return
        numbers, bits = (tags.get(tag, (1,))[:1] for tag in (SAMPLEFORMAT, BITSPERSAMPLE))
        form = (numbers, tags.get(FILLORDER, 1), bits, ())
        raw = OPEN_INFO[tags.prefix, tags.get(PHOTOMETRIC_INTERPRETATION, 0), *form][1]
    image.tile = [tile._replace(args=(raw, *(tile.args or ())[1:])) for tile in image.tile]


def raw_mode(image: Image.Image) -> str:
    """How the numbers lie in the file, as PIL's decoders call it; '' where nothing says it."""
    tile = getattr(image, "tile", None)
    if not tile:  # its pixels are loaded
        return ""
    args = tile[0].args
    return str(args[0] if isinstance(args, tuple) else args)


def _swapped(image: Image.Image) -> bool:
    """Whether PIL swaps the bytes of its numbers once too often."""
    if not isinstance(image, TiffImageFile) or image.info.get("compression") == "raw":
        return False
    return image.mode in ("I", "F") and image.tag_v2.prefix == b"MM"


def unread_tiff(source: Source) -> str | None:
    """In words, the bands and bits of a TIFF that PIL does not read; None for any other file."""
    try:
        handle = opened(source)
        with handle.open("rb") if isinstance(handle, Path) else handle as file:
            head = file.read(8)
            if head[:2] not in (b"II", b"MM"):
                return None
            head += file.read(8) if 43 in head[2:4] else b""  # BigTIFF
            tags = ImageFileDirectory_v2(head)
            file.seek(tags.next)
            tags.load(file)
        bands, bits = int(tags.get(SAMPLESPERPIXEL, 1)), int(tags.get(BITSPERSAMPLE, (1,))[0])
    except Exception:  # it is broken, which reading it said as well
        return None
    return f"a TIFF of {bands} band{'' if bands == 1 else 's'} of {bits} bits"


def scaling(source: Source) -> str:
    """How to make 8-bit RGB of a file that PIL does not read, as the end of a sentence."""
    return _with(_line("rasterio", source, "a.min()", "a.max()"))


def _advice(image: Image.Image, path: Source | None) -> str:
    if image.mode not in DEEP:
        return scaling(path) if path is not None else _with(None)
    values = np.asarray(image)
    finite = values[np.isfinite(values)]
    low, high = (finite.min().item(), finite.max().item()) if finite.size else (0, 1)
    line = _line(
        "rasterio" if _swapped(image) else "PIL", path, repr(low), repr(max(high, low + 1))
    )
    return f", from its range of {low:g} to {high:g}{_with(line)}"


def _with(line: str | None) -> str:
    if line is None:
        return ", scaled by the range of its values"
    return f", for example with: {line} (take the same lo and hi for all images of a data set)"


def _line(reader: str, source: Source | None, low: str, high: str) -> str | None:
    """The command for a file on this disk; other images have no path that a shell can open."""
    path = "" if source is None else str(source)
    if not os.path.isfile(path):
        return None
    out = json.dumps(os.path.splitext(path)[0] + "-8bit.png", ensure_ascii=False)
    read = _READERS[reader].format(path=json.dumps(path, ensure_ascii=False))
    code = _SCALE.format(read=read, low=low, high=high, out=out)
    return f"python -c {shlex.quote(code)}"
