"""Foreign images, archives and annotations: no program is started, and nothing lies outside --out."""

import ast
import base64
import contextlib
import csv
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from hfgd.data import write_folder as exporting
from hfgd.data.archive import Packed
from hfgd.data.formats.labelme import _mask
from hfgd.data.formats.supervisely import decode_bitmap
from hfgd.data.images import FORMATS, open_image, read_header, read_image
from hfgd.data.importing.import_data import import_data
from hfgd.data.importing.prepare import prepare
from hfgd.data.importing.write_import import Rules
from hfgd.data.label_files import read_label
from hfgd.data.open import open_dataset
from hfgd.errors import HfgdError
from hfgd.files import inside
from hfgd.predict.inputs import find_images
from hfgd.predict.storage import open_place
from miniatures import BUILDERS, pictures

SOURCE = Path(__file__).parents[1] / "src" / "hfgd"

# ---- what is decoded ------------------------------------------------------------------------

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n/x 1 def\nshowpage\n"


@pytest.fixture
def ghost(tmp_path, monkeypatch):
    """A Ghostscript that leaves a mark where it is started."""
    if os.name == "nt":
        pytest.skip("the program is a shell script")
    mark, program = tmp_path / "started", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return mark


def as_packed(data):
    return Packed("'cell'", "photo.png", lambda: data)


READERS = {
    "image": lambda p: read_image(p),
    "text": lambda p: read_image(str(p)),
    "label": lambda p: read_label(p, colours=False),
    "colours": lambda p: read_label(p, colours=True),
    "header": lambda p: read_header(p),
    "packed": lambda p: read_image(as_packed(p.read_bytes())),
    "labelme": lambda p: _mask(base64.b64encode(p.read_bytes()).decode(), (8, 8), 8, 8),
}


@pytest.mark.parametrize("reader", READERS)
def test_postscript_called_png_is_refused_and_starts_nothing(reader, tmp_path, ghost):
    photo = tmp_path / "photo.png"
    photo.write_bytes(POSTSCRIPT)
    with pytest.raises(HfgdError) as refused:
        READERS[reader](photo)
    assert "\n" not in str(refused.value)
    assert not ghost.exists()


def test_the_attack_is_real(tmp_path, ghost):
    """Pillow without a list of formats does start it."""
    (tmp_path / "photo.png").write_bytes(POSTSCRIPT)
    with contextlib.suppress(OSError), Image.open(tmp_path / "photo.png") as image:
        image.load()
    assert ghost.exists()


def test_a_bitmap_of_supervisely_is_a_png(tmp_path):
    import zlib

    file = io.BytesIO()
    Image.new("L", (4, 4), 255).save(file, "BMP")
    with pytest.raises(HfgdError, match="no base64 text of a zlib-packed PNG"):
        decode_bitmap(base64.b64encode(zlib.compress(file.getvalue())).decode(), 4, 4)


@pytest.mark.parametrize("format", FORMATS)
def test_every_listed_format_is_read(format, tmp_path):
    file = tmp_path / "photo.png"  # whatever it is called
    Image.new("RGB", (6, 4), (10, 200, 30)).save(file, format)
    assert read_image(file).shape == (4, 6, 3)


@pytest.mark.parametrize("format", ["GIF", "PPM", "TGA", "ICO", "PCX", "EPS", "PDF"])
def test_others_are_not(format, tmp_path):
    file = tmp_path / "photo.png"
    Image.new("RGB", (16, 16)).save(file, format)
    with pytest.raises(
        HfgdError, match=r"no image that can be read \(JPEG, PNG, BMP, TIFF, WEBP\)"
    ):
        read_image(file)


def test_images_are_opened_in_one_place():
    """``Image.open`` occurs once in the package, with its formats."""
    calls = [
        (path.relative_to(SOURCE).as_posix(), [word.arg for word in node.keywords])
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("open", "imread")
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("Image", "plt", "pyplot", "cv2", "imageio")
    ]
    assert calls == [("data/images.py", ["formats"])]


def test_a_small_file_of_many_pixels_stays_refused(tmp_path):
    """Pillow's bound on pixels holds behind the list of formats too."""
    file = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(file)
    with pytest.raises(HfgdError, match="has 400,000,000 pixels"):
        read_image(file)
    with pytest.raises(Image.DecompressionBombError):
        open_image(file)


def test_a_tiff_that_is_a_list_of_other_files_is_not_read(tmp_path):
    """GDAL's VRT: XML that names any file or address, called photo.tif."""
    pytest.importorskip("rasterio")
    from hfgd.predict.tiff import open_source

    Image.new("RGB", (64, 64)).save(tmp_path / "private.tif")
    (tmp_path / "photo.tif").write_text(
        '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1">'
        f"<SimpleSource><SourceFilename>{tmp_path}/private.tif</SourceFilename>"
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with (
        pytest.raises(HfgdError, match=r"photo\.tif' is broken or truncated"),
        open_source(str(tmp_path / "photo.tif")),
    ):
        pass
    with open_source(str(tmp_path / "private.tif")) as source:
        assert source.size == (64, 64)


def test_a_film_that_is_a_list_of_other_files_is_not_read(tmp_path):
    """FFmpeg's concat list, called clip.mp4."""
    av = pytest.importorskip("av")
    from hfgd.predict.video import _opened

    for name in ("private.mp4", "private.mkv", "private.avi"):
        with av.open(str(tmp_path / name), "w") as sink:
            stream = sink.add_stream("mpeg4", rate=25)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            sink.mux(stream.encode(frame))
            sink.mux(stream.encode())
        with _opened(av, str(tmp_path / name)) as source:
            assert len(list(source.decode(video=0))) == 1
    (tmp_path / "clip.mp4").write_text("ffconcat version 1.0\nfile private.mp4\n")
    with av.open(str(tmp_path / "clip.mp4")) as source:
        assert source.format.name == "concat"  # what it would be without the list of containers
    with pytest.raises(av.error.FFmpegError), _opened(av, str(tmp_path / "clip.mp4")):
        pass


# ---- where things are written ---------------------------------------------------------------

HOSTILE = [
    "/tmp/evil", "../evil", "a/../../evil", "a/..", "..", "C:\\evil", "C:/evil", "a\\..\\..\\evil",
    "\\\\host\\share", "a\0b", "a\nb", "", "a/",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_with_what_holds_it(name, tmp_path):
    with pytest.raises(
        HfgdError, match=r"^'masks\.csv': line 3: an image cannot be called"
    ) as error:
        inside(tmp_path / "out", name, "'masks.csv': line 3", "images/train")
    assert "\n" not in str(error.value)
    assert "\0" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["a", "a/b.png", "2024-01-01T12:00:00.png", "...png", "~/a", "é.png"]
)
def test_an_ordinary_name_is_kept(name, tmp_path):
    if os.name == "nt" and ":" in name:
        pytest.skip("no name of a file there")
    assert inside(tmp_path, name, "here", "images/train") == tmp_path / "images/train" / name


def everything(folder):
    return sorted(path for path in folder.rglob("*"))


@pytest.mark.parametrize("format", ["voc", "cvat"])
def test_a_member_behind_two_strokes_is_not_written(format, tmp_path):
    """What stands behind them would be an absolute path."""
    target = tmp_path / "elsewhere"
    target.mkdir()
    BUILDERS[format](tmp_path / "source", pictures())
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted((tmp_path / "source").rglob("*")):
            name = path.relative_to(tmp_path / "source").as_posix()
            if path.is_file() and "ImageSets" not in name:  # whose names would not fit any more
                name = name.replace("SegmentationClass/", f"SegmentationClass/{target}/")
                archive.writestr(name, path.read_bytes())
    with pytest.raises(HfgdError, match=r"set\.zip:SegmentationClass//.*cannot be called '/"):
        import_data(tmp_path / "set.zip", tmp_path / "out", Rules(format))
    assert everything(target) == []
    assert not (tmp_path / "out").exists()


def test_an_absolute_name_in_a_csv_is_not_written(tmp_path):
    target = tmp_path / "elsewhere"
    target.mkdir()
    BUILDERS["kaggle"](tmp_path / "source", pictures())
    rows = list(csv.reader((tmp_path / "source/masks.csv").open(newline="")))
    name = rows[1][0]
    for row in rows[1:]:
        if row[0] == name:
            row[0] = str(target / name.removesuffix(".png"))
    with (tmp_path / "source/masks.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(HfgdError, match=r"masks\.csv': an image cannot be called '.*elsewhere"):
        import_data(tmp_path / "source", tmp_path / "out", Rules("kaggle"))
    assert everything(target) == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", BUILDERS)
def test_no_format_writes_through_a_link(format, tmp_path):
    """Somebody put a link into --out before."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/images").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "source").mkdir()
    BUILDERS[format](tmp_path / "source", pictures())
    with pytest.raises(HfgdError, match=r"would lie outside '.*out', through a link"):
        import_data(tmp_path / "source", tmp_path / "out", Rules(format))
    assert everything(tmp_path / "elsewhere") == []
    assert everything(tmp_path / "out") == [tmp_path / "out/images"]


def test_out_may_be_a_link_itself(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk", target_is_directory=True)
    BUILDERS["voc"](tmp_path / "source", pictures())
    import_data(tmp_path / "source", tmp_path / "out")
    assert (tmp_path / "disk/data.yaml").is_file()


def png(value=1):
    file = io.BytesIO()
    Image.new("L", (8, 8), value).save(file, "PNG")
    return file.getvalue()


def test_a_known_data_set_in_a_zip_leads_nowhere(tmp_path):
    """Cityscapes' names are taken from its folders, which a zip may call '..'."""
    photo = io.BytesIO()
    Image.new("RGB", (8, 8)).save(photo, "PNG")
    with zipfile.ZipFile(tmp_path / "city.zip", "w") as archive:
        for name in ("../../../../elsewhere/x", "a/b"):
            archive.writestr(f"leftImg8bit/train/{name}_leftImg8bit.png", photo.getvalue())
            archive.writestr(f"gtFine/train/{name}_gtFine_labelIds.png", png(7))
    dataset = open_dataset(f"cityscapes:{tmp_path / 'city.zip'}", "train")
    with pytest.raises(HfgdError, match=r"cannot be called '\.\./\.\./\.\./\.\./elsewhere/x"):
        exporting.export({"train": dataset}, tmp_path / "deep/er/out")
    assert not list(tmp_path.rglob("elsewhere"))


def test_a_prepared_data_set_does_not_write_through_a_link(tmp_path):
    source = tmp_path / "VOC"
    (source / "JPEGImages").mkdir(parents=True)
    (source / "59_context_labels").mkdir()
    Image.new("RGB", (8, 8)).save(source / "JPEGImages/a.jpg")
    (source / "59_context_labels/a.png").write_bytes(png())
    from hfgd.data.known import KNOWN

    names = KNOWN["pascal_context"].classes.names
    lines = "\n".join(f"{i + 1}: {name}" for i, name in enumerate(names))
    (source / "59_labels.txt").write_text(lines)
    for split in ("train", "val"):
        (source / f"{split}.txt").write_text("a\n" if split == "train" else "")
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/images").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(HfgdError, match="through a link"):
        prepare("pascal_context", source, tmp_path / "out", workers=1)
    assert not list((tmp_path / "elsewhere").rglob("*.jpg"))


MEMBERS = ["../../up.png", "/abs.png", "C:\\drive.png", "a\\..\\..\\back.png", "in/../out.png"]


def test_archives_that_name_other_places_are_labelled_inside(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in MEMBERS:
            archive.writestr(name, png())
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        for name in MEMBERS:
            info = tarfile.TarInfo(name)
            info.size = len(png())
            archive.addfile(info, io.BytesIO(png()))
        for kind, name in ((tarfile.SYMTYPE, "soft.png"), (tarfile.LNKTYPE, "hard.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
    items = find_images([tmp_path / "a.zip", tmp_path / "b.tar"])
    assert len(items) == 2 * len(MEMBERS)  # links are no images
    for item in items:
        assert inside(tmp_path / "out", item.target, "here")
    place = open_place(tmp_path / "out")
    for name in ("../x.png", "/x.png", "labels/../../x.png"):
        with pytest.raises(HfgdError, match="leads out of its folder"):
            place.write(name, b"")
    assert not (tmp_path / "out").exists()
