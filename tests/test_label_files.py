"""Label files give the numbers that they store: against rasterio, and a packer of bits by hand."""

import itertools
import re
import struct
import zipfile
import zlib

import numpy as np
import pytest
import rasterio
from PIL import Image

from hfgd.data.archive import Entry
from hfgd.data.images import read_header, read_image
from hfgd.data.label_files import read_label
from hfgd.errors import HfgdError

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def packed(values, bits):
    """Rows of numbers, each row filled up to whole bytes, the first number in the highest bits."""
    digits = [[f"{v:0{bits}b}" for v in row] for row in values.tolist()]
    rows = ["".join(row) for row in digits]
    return [
        int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8)) for row in rows
    ]


def png(path, values, bits, palette=False, exif=None):
    height, width = values.shape
    header = struct.pack(">IIBBBBB", width, height, bits, 3 if palette else 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in packed(values, bits)))
    colours = bytes(itertools.islice(itertools.cycle(range(7, 250)), 3 << bits))
    chunks = [(b"IHDR", header), *([(b"PLTE", colours)] if palette else [])]
    chunks += [(b"eXIf", exif)] if exif else []
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in [*chunks, (b"IDAT", data), (b"IEND", b"")]:
        content += struct.pack(">I", len(body)) + kind + body
        content += struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(content)
    return path


def numbers(high, dtype="uint8", size=(5, 13)):
    return np.random.default_rng(3).integers(0, high, size).astype(dtype)


def geotiff(path, values, **options):
    height, width = values.shape
    shape = {"height": height, "width": width, "count": 1, "dtype": values.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as file:
        file.write(values, 1)
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(1), values)
    return path


@pytest.mark.situation(
    "labels",
    "PNG of 1, 2, 4 and 8 bits, grey or palette",
    "read: the stored numbers",
)
@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_png_gives_its_stored_numbers(tmp_path, bits, palette):
    values = numbers(1 << bits)
    label = read_label(png(tmp_path / "x.png", values, bits, palette), colours=False)
    assert label.dtype == np.uint8
    assert np.array_equal(label, values)


@pytest.mark.situation(
    "labels",
    "TIFF of 1 to 32 bits, either byte order, 0 as black or white, compressed",
    "read: the stored numbers",
)
@pytest.mark.parametrize("compress", [None, "lzw", "deflate", "packbits"])
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_a_tiff_gives_its_stored_numbers(tmp_path, compress, order, photometric):
    options = {"endianness": order, "photometric": photometric} | (
        {"compress": compress} if compress else {}
    )
    for bits in (1, 2, 4, 8):
        path = geotiff(tmp_path / f"{bits}.tif", numbers(1 << bits), nbits=bits, **options)
        assert np.array_equal(read_label(path, colours=False), numbers(1 << bits)), bits
    deep = ["uint16", "int16", "uint32", "int32", "int64", "uint64", "float32", "float64"]
    for dtype in deep:
        values = numbers(300, dtype)
        path = geotiff(tmp_path / f"{dtype}.tif", values, **options)
        label = read_label(path, colours=False)
        assert label.dtype.kind in "iu"
        assert np.array_equal(label, values), dtype


@pytest.mark.situation(
    "labels",
    "TIFF with a palette, either byte order",
    "read: the indices",
)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("order", ["little", "big"])
def test_a_palette_tiff_gives_its_indices(tmp_path, bits, order):
    values = numbers(1 << bits)
    path = tmp_path / "x.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=5, width=13, count=1, dtype="uint8", nbits=bits,
        photometric="palette", endianness=order,
    ) as file:  # fmt: skip
        file.write(values, 1)
        file.write_colormap(1, {i: (i, 255 - i, 7, 255) for i in range(1 << bits)})
    assert np.array_equal(read_label(path, colours=False), values)


@pytest.mark.situation(
    "labels",
    "TIFF in tiles, with planes or overviews",
    "read",
)
def test_tiles_planes_and_overviews_of_a_tiff(tmp_path):
    tiles = {"tiled": True, "blockxsize": 32, "blockysize": 32}
    for bits, order, tiled in itertools.product((1, 2, 4, 8, 16), ("pixel", "band"), (tiles, {})):
        path = tmp_path / f"{bits}{order}{len(tiled)}.tif"
        dtype = "uint16" if bits == 16 else "uint8"
        values = numbers(min(16, 1 << bits), dtype, size=(70, 90))
        geotiff(path, values, nbits=bits, interleave=order, **tiled)
        with rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4])
        assert np.array_equal(read_label(path, colours=False), values), path


def test_a_label_in_a_zip_is_read_by_either_decoder(tmp_path):
    geotiff(tmp_path / "x.tif", numbers(9, "float64"))
    png(tmp_path / "x.png", numbers(4), 2)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "x.tif", "x.tif")
        archive.write(tmp_path / "x.png", "x.png")
    for name, high in (("x.tif", 9), ("x.png", 4)):
        label = read_label(Entry(tmp_path / "x.zip", name), colours=False)
        assert np.array_equal(label, numbers(high))


@pytest.mark.situation(
    "labels",
    "float TIFF (gdal_rasterize): whole numbers, or not",
    "read; refused where a value is not whole",
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("odd", [0.5, float("nan"), float("inf"), 1e12])
def test_numbers_that_are_no_ids_are_refused(tmp_path, dtype, odd):
    values = numbers(9, dtype)
    values[1, 1] = odd
    path = tmp_path / "x.tif"
    with rasterio.open(path, "w", driver="GTiff", height=5, width=13, count=1, dtype=dtype) as file:
        file.write(values, 1)
    with pytest.raises(
        HfgdError, match=re.escape(f"holds numbers that are no ids, {odd:g} for one")
    ):
        read_label(path, colours=False)


@pytest.mark.situation(
    "labels",
    "several pages; transparency",
    "pages refused; transparent pixels are ignored or refused",
)
def test_pages_bands_and_transparency_of_a_label(tmp_path):
    page = Image.fromarray(numbers(3))
    for suffix in ("tif", "png", "webp"):
        path = tmp_path / f"pages.{suffix}"
        other = Image.fromarray(2 - numbers(3))
        page.save(path, save_all=True, append_images=[other], lossless=True)
        with pytest.raises(HfgdError, match="has several pages or frames, and a label has one"):
            read_label(path, colours=False)
    with rasterio.open(
        tmp_path / "bands.tif", "w", driver="GTiff", height=5, width=13, count=2, dtype="uint64"
    ) as file:
        file.write(np.stack([numbers(3, "uint64")] * 2))
    with pytest.raises(HfgdError, match="has 2 bands, and a label has one"):
        read_label(tmp_path / "bands.tif", colours=False)
    opaque = Image.merge("LA", [page, Image.new("L", page.size, 255)])
    opaque.save(tmp_path / "opaque.png")
    extras = []
    assert np.array_equal(read_label(tmp_path / "opaque.png", False, extras), numbers(3))
    assert extras == ["alpha"]
    Image.merge("LA", [page, page]).save(tmp_path / "clear.png")
    with pytest.raises(HfgdError, match="has transparent pixels, which stand for no class"):
        read_label(tmp_path / "clear.png", colours=False)
    Image.new("CMYK", (4, 4)).save(tmp_path / "cmyk.tif")
    with pytest.raises(HfgdError, match="is no RGB image"):
        read_label(tmp_path / "cmyk.tif", colours=True)


TURNED = {  # by the standard: what the stored rows and columns are of the upright picture
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.situation(
    "labels",
    "EXIF orientation in a mask",
    "turned, as an image is",
)
@pytest.mark.parametrize("orientation", TURNED)
def test_a_label_is_turned_by_its_own_exif_as_an_image_is(tmp_path, orientation):
    values = numbers(4)
    exif = Image.Exif()
    exif[0x0112] = orientation
    tags = exif.tobytes().removeprefix(b"Exif\0\0")
    wanted = TURNED[orientation](values)
    files = [png(tmp_path / "x.png", values, 2, exif=tags)]
    for name, compression in (("raw", None), ("lzw", "tiff_lzw")):
        files.append(tmp_path / f"{name}.tif")
        Image.fromarray(values).save(files[-1], exif=exif, compression=compression)
    for path in files:
        assert np.array_equal(read_label(path, colours=False), wanted), path.name
        seen = read_image(path)[..., 0]
        assert np.array_equal(seen // (85 if path.suffix == ".png" else 1), wanted), path.name
        header = read_header(path)
        assert (header.size, header.orientation) == (values.shape, orientation), path.name
