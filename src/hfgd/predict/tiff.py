"""GeoTIFF, BigTIFF, plain TIFF and OME-TIFF by windows, with rasterio (``hfgd[tiff]``)."""

import errno
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hfgd.data.classes import IGNORE, ClassSet
from hfgd.data.images import Pixels, open_image
from hfgd.data.prediction import Prediction
from hfgd.errors import HfgdError
from hfgd.files import write_whole
from hfgd.inference.labeller import Labeller
from hfgd.parse import refuse_special
from hfgd.predict.image_rows import ImageRow, count_classes
from hfgd.predict.inputs import InputImage
from hfgd.predict.storage import Folder
from hfgd.predict.tiles import BLOCK, Block, choose_tiles, label_tiles
from hfgd.predict.writer import Writer, save_png
from hfgd.types import Grid, Size

LARGE = 64_000_000  # pixels from which a TIFF is read by windows
OVERVIEW = 2048  # pixels of the longer side of an overlay
MARGIN = 1_000_000  # bytes: a disk with less is full
CACHE = 64_000_000  # bytes of blocks that GDAL may keep
DRIVER = "GTiff"  # GDAL knows others, which read further files and addresses


def by_windows(path: str, tile: int | None) -> bool:
    """Whether a TIFF is labelled by tiles: a large one, one that lies on a map, OME, or where it is
    asked for. One that fits is not where there is no rasterio."""
    try:
        refuse_special(path)  # reading it says so
    except HfgdError:
        return False
    if tile is not None:
        return True
    try:
        with open_image(path, ("TIFF",)) as image:
            width, height = image.size
            tags: Any = getattr(image, "tag_v2", {})
            # ModelPixelScale, ModelTransformation; OME says of itself in the description
            special = 33550 in tags or 34264 in tags or "<OME" in str(tags.get(270, ""))
    except Image.DecompressionBombError:
        return True
    except Exception:  # whatever is wrong with it: reading it whole or by windows says it
        return os.path.exists(path) and os.path.getsize(path) > LARGE
    return width * height > LARGE or (special and _rasterio(path, needed=False) is not None)


def _rasterio(path: str, needed: bool = True) -> Any:
    try:
        import rasterio
    except ImportError as error:
        if needed:
            raise HfgdError(
                f"'{path}' is read by windows with rasterio; pip install 'hfgd[tiff]'."
            ) from error
        return None
    return rasterio


class Source(NamedTuple):
    """An open TIFF: its size, its colour bands (dataset, band) and what is written along."""

    path: str
    size: Size
    bands: list[tuple[Any, int]]
    profile: dict[str, Any]
    masked: bool
    extras: list[str]  # what is not read of it, as in images.EXTRAS

    def read(self, top: int, left: int, height: int, width: int) -> Pixels:
        """A window as RGB (height, width, 3)."""
        window = ((top, top + height), (left, left + width))
        with _readable(self.path):
            planes = [dataset.read(band, window=window) for dataset, band in self.bands]
        return np.ascontiguousarray(np.stack(planes * (3 // len(planes)), axis=-1))

    def valid(self, top: int, left: int, height: int, width: int) -> Any:
        """Which pixels of a window hold data (height, width)."""
        window = ((top, top + height), (left, left + width))
        with _readable(self.path):
            return self.bands[0][0].dataset_mask(window=window) > 0


@contextmanager
def _readable(path: str) -> Iterator[None]:
    rasterio = _rasterio(path)
    try:
        yield
    except rasterio.errors.RasterioIOError as error:
        raise HfgdError(f"image '{path}' is broken or truncated ({error}).") from error


@contextmanager
def open_source(path: str) -> Iterator[Source]:
    """Raises HfgdError for what is no TIFF of one or three channels of 8 bits."""
    rasterio = _rasterio(path)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE))
        with _readable(path):
            first = stack.enter_context(rasterio.open(path, driver=DRIVER))
            pages = [first]
            told = first.tags().get("TIFFTAG_IMAGEDESCRIPTION", "")
            channels = "<OME" in told and 'SizeC="3"' in told  # OME: a page for each
            if channels and first.count == 1 and len(first.subdatasets) == 3:
                pages = [
                    stack.enter_context(rasterio.open(name, driver=DRIVER))
                    for name in first.subdatasets
                ]
        bands = [(page, 1) for page in pages]
        if first.count >= 3:
            bands = [(first, band) for band in (1, 2, 3)]
        kinds = {dataset.dtypes[band - 1] for dataset, band in bands}
        if kinds != {"uint8"} or len({dataset.shape for dataset, _ in bands}) > 1:
            raise HfgdError(
                f"image '{path}' has other than 8 bits a channel ({', '.join(sorted(kinds))}); "
                "convert it to 8-bit RGB."
            )
        if first.count == 1 and first.colorinterp[0].name == "palette":
            raise HfgdError(f"image '{path}' has a palette; convert it to 8-bit RGB.")
        kept = {"crs": first.crs, "transform": first.transform}
        masked = any("nodata" in {f.name for f in m} or "per_dataset" in {f.name for f in m}
                     for m in first.mask_flag_enums)  # fmt: skip
        yield Source(path, first.shape, bands, kept | _points(first), masked, _extras(first, bands))


def _extras(first: Any, bands: list[tuple[Any, int]]) -> list[str]:
    used = {dataset.name for dataset, _ in bands}
    rest = first.colorinterp[len(bands) if len(used) == 1 else first.count :]
    extras = ["pages"] if len(first.subdatasets) > len(used) else []
    extras += ["bands"] if any(band.name != "alpha" for band in rest) else []
    return extras + (["alpha"] if any(band.name == "alpha" for band in rest) else [])


def _points(dataset: Any) -> dict[str, Any]:
    """Ground control points, where these place the image."""
    points, system = dataset.gcps
    return {"gcps": points, "crs": system} if points else {}


def label_tiff(
    labeller: Labeller, item: InputImage, writer: Writer, tile: int | None = None
) -> None:
    """Write the label map of a TIFF as a tiled, compressed TIFF with its place on the map and the
    palette, and an overlay at reduced size. Pixels without data are void."""
    if not isinstance(writer.place, Folder):
        raise HfgdError(f"'{item.source}' is labelled by windows, which needs a folder as --out.")
    began, path = time.perf_counter(), str(item.source)
    target = writer.place.path(f"labels/{item.target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_source(path) as source:
        writer.extras += source.extras
        counts = np.zeros(len(labeller.classes), dtype=np.int64)
        small = _Overview(source.size)
        confidence: list[float] = []

        def write(part: Path) -> None:
            with _created(part, source, labeller.classes) as file:
                for block in _blocks(labeller, source, tile):
                    height, width = block.labels.shape
                    where = (block.top, block.left, height, width)
                    if source.masked:
                        block.labels[~source.valid(*where)] = IGNORE
                    window = ((where[0], where[0] + height), (where[1], where[1] + width))
                    file.write(block.labels, 1, window=window)
                    counts[:] += count_classes(block.labels, len(counts))
                    confidence.append(block.confidence)
                    small.add(block)
            if writer.overlays:
                overlay = Prediction(small.pixels, small.labels, labeller.classes)
                name = f"overlays/{item.target.removesuffix('.tif')}.png"
                save_png(overlay.overlay(writer.opacity), writer.place, name, compress_level=1)
            mean = sum(confidence) / (source.size[0] * source.size[1])
            seconds = time.perf_counter() - began
            writer.rows.add(
                ImageRow(item.target, path, *source.size, seconds, mean, [int(n) for n in counts])
            )

        try:
            write_whole(target, write)
        except _rasterio(path).errors.RasterioError as error:  # in words alone
            if shutil.disk_usage(target.parent).free > MARGIN:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error


def _blocks(labeller: Labeller, source: Source, tile: int | None) -> Iterator[Block]:
    grid: Grid | None = getattr(labeller, "grid", None)
    tiles = choose_tiles(len(labeller.classes), grid, tile)
    yield from label_tiles(labeller, source.size, source.read, tiles)


@contextmanager
def _created(part: Path, source: Source, classes: ClassSet) -> Iterator[Any]:
    rasterio = _rasterio(str(part))
    height, width = source.size
    small = min(height, width) < BLOCK
    with rasterio.open(
        part,
        "w",
        driver=DRIVER,
        height=height,
        width=width,
        count=1,
        dtype="uint8",
        compress="deflate",
        BIGTIFF="IF_SAFER",
        photometric="palette",
        nodata=IGNORE if source.masked else None,
        **({} if small else {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}),
        **source.profile,
    ) as file:
        table = dict.fromkeys(range(256), (0, 0, 0, 255))
        table |= {i: (*colour, 255) for i, colour in enumerate(classes.palette)}
        file.write_colormap(1, table)
        yield file


class _Overview:
    """Image and labels at a size that can be looked at: every n-th pixel."""

    def __init__(self, size: Size) -> None:
        self._step = -(-max(size) // OVERVIEW)
        height, width = (-(-n // self._step) for n in size)
        self.pixels: Pixels = np.zeros((height, width, 3), dtype=np.uint8)
        self.labels: Pixels = np.zeros((height, width), dtype=np.uint8)

    def add(self, block: Block) -> None:
        step = self._step
        y, x = -block.top % step, -block.left % step
        labels, pixels = block.labels[y::step, x::step], block.pixels[y::step, x::step]
        top, left = -(-block.top // step), -(-block.left // step)
        where = np.s_[top : top + labels.shape[0], left : left + labels.shape[1]]
        self.labels[where], self.pixels[where] = labels, pixels
