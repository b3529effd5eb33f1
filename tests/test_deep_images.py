"""Images with more bits or more pixels than are read: refused in a sentence, never cut silently."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from hfgd.data.archive import Entry
from hfgd.data.check import check_folder
from hfgd.data.classes import ClassSet, LabelMap
from hfgd.data.folder import FolderData
from hfgd.data.images import read_image
from hfgd.errors import HfgdError

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's, by channels


def png(path, pixels):
    """(H, W, C) uint8 or uint16 as a PNG; PIL itself writes no 16-bit colours."""
    height, width, channels = pixels.shape
    depth = 8 * pixels.dtype.itemsize
    header = struct.pack(">IIBBBBB", width, height, depth, COLOUR_TYPES[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in pixels)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        checked = kind + data
        parts += [struct.pack(">I", len(data)), checked, struct.pack(">I", zlib.crc32(checked))]
    path.write_bytes(b"".join(parts))
    return path


def tiff(path, pixels, order):
    """(H, W, 3) as an uncompressed RGB TIFF of one strip; ``order`` '<' or '>'."""
    height, width, _ = pixels.shape
    data = pixels.astype(f"{order}u{pixels.dtype.itemsize}").tobytes()
    tags = [  # number, type (3 short, 4 long), count, value
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 0), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(data)),
    ]  # fmt: skip
    start = 8 + 6 + 2 + 12 * len(tags) + 4
    content = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 14)
    content += struct.pack(f"{order}3H", *3 * [8 * pixels.dtype.itemsize])  # what tag 258 points to
    content += struct.pack(f"{order}H", len(tags))
    for number, kind, count, value in tags:
        stored = start if number == 273 else value
        code = "HH" if kind == 3 and count == 1 else "I"
        values = (stored, 0) if code == "HH" else (stored,)
        content += struct.pack(f"{order}HHI{code}", number, kind, count, *values)
    path.write_bytes(content + struct.pack(f"{order}I", 0) + data)
    return path


WRITERS = {
    "png": png,
    "little.tif": lambda path, pixels: tiff(path, pixels, "<"),
    "big.tif": lambda path, pixels: tiff(path, pixels, ">"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_sixteen_bit_colours_are_refused(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    shallow = WRITERS[kind](tmp_path / f"8.{kind}", pixels)
    assert np.array_equal(read_image(shallow), pixels)
    deep = WRITERS[kind](tmp_path / f"16.{kind}", pixels.astype(np.uint16) << 8)
    with pytest.raises(
        HfgdError, match=rf"^image '.*16\.{kind}' has more than 8 bits .* convert it to 8"
    ):
        read_image(deep)
    with (
        Image.open(deep) as opened,
        pytest.raises(HfgdError, match="the given image has more than 8 bits"),
    ):
        read_image(opened)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_sixteen_bits_with_and_without_transparency(tmp_path, channels):
    path = tmp_path / "x.png"
    assert read_image(png(path, np.zeros((5, 7, channels), dtype=np.uint8))).shape == (5, 7, 3)
    with pytest.raises(HfgdError, match="more than 8 bits"):
        read_image(png(path, np.zeros((5, 7, channels), dtype=np.uint16)))


def test_compressed_sixteen_bit_tiffs_are_refused_too(tmp_path):
    Image.new("RGB", (7, 5)).save(tmp_path / "8.tif", compression="tiff_lzw")
    assert read_image(tmp_path / "8.tif").shape == (5, 7, 3)
    Image.fromarray(np.zeros((5, 7), dtype=np.uint16)).save(
        tmp_path / "16.tif", compression="tiff_lzw"
    )
    with pytest.raises(HfgdError, match="more than 8 bits"):
        read_image(tmp_path / "16.tif")


def test_other_sixteens_are_read(tmp_path):
    """A BMP of 16 bits a pixel has 5 or 6 a channel."""
    mask = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0) + mask
    content = struct.pack("<HH", 0xF800, 0x001F)
    (tmp_path / "x.bmp").write_bytes(
        b"BM"
        + struct.pack("<IHHI", 14 + len(header) + 4, 0, 0, 14 + len(header))
        + header
        + content
    )
    assert read_image(tmp_path / "x.bmp").tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_sixteen_bit_colour_labels_are_refused(tmp_path):
    label_map = LabelMap.parse({"255, 0, 0": "a", "0, 0, 0": "b"}, ClassSet.of(["a", "b"]), "")
    pixels = np.array([[[255, 0, 0], [0, 0, 0]]], dtype=np.uint8)
    assert label_map.load(png(tmp_path / "8.png", pixels)).tolist() == [[0, 1]]
    deep = png(tmp_path / "16.png", pixels.astype(np.uint16) << 8)
    with pytest.raises(HfgdError, match=r"^label '.*16\.png' has more than 8 bits"):
        label_map.load(deep)


def test_check_names_deep_images(folder):
    png(folder / "images/train/train1.png", np.zeros((40, 50, 3), dtype=np.uint16))
    (problem,) = check_folder(FolderData(folder)).splits[0].problems
    assert "train1.png' has more than 8 bits a channel" in problem


@pytest.fixture
def limit(monkeypatch):
    """Images of more than twice 1000 pixels are refused."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.usefixtures("limit")
def test_an_image_with_too_many_pixels_has_its_own_sentence(tmp_path, suffix):
    Image.new("L", (50, 40)).save(tmp_path / f"fits.{suffix}")
    assert read_image(tmp_path / f"fits.{suffix}").shape == (40, 50, 3)
    Image.new("L", (50, 41)).save(tmp_path / f"large.{suffix}")
    with pytest.raises(HfgdError) as caught:
        read_image(tmp_path / f"large.{suffix}")
    assert str(caught.value) == (
        f"image '{tmp_path}/large.{suffix}' has 2,050 pixels, and at most 2,000 are read; "
        "scale it down, or cut it into tiles."
    )


@pytest.mark.usefixtures("limit")
def test_so_has_a_label(tmp_path):
    Image.new("L", (50, 41)).save(tmp_path / "large.png")
    label_map = LabelMap.identity(ClassSet.of(["a"]))
    with pytest.raises(HfgdError, match=r"^label .*large\.png' has 2,050 pixels"):
        label_map.load(tmp_path / "large.png")


def test_an_image_within_twice_the_limit_is_read_without_a_warning(tmp_path):
    """In a process of its own, because pytest has warning filters of its own."""
    Image.new("L", (50, 40)).save(tmp_path / "x.png")
    program = (
        "from PIL import Image; Image.MAX_IMAGE_PIXELS = 1000\n"
        "from hfgd.data.images import read_image\n"
        f"print(read_image({str(tmp_path / 'x.png')!r}).shape)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(40, 50, 3)\n", "")


def test_a_deep_image_in_a_zip_is_refused(tmp_path):
    from zipfile import ZipFile

    png(tmp_path / "x.png", np.zeros((5, 7, 3), dtype=np.uint16))
    with ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "x.png", "x.png")
    with pytest.raises(HfgdError, match=r"x\.zip:x\.png' has more than 8 bits"):
        read_image(Entry(tmp_path / "x.zip", "x.png"))
