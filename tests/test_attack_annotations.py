"""Annotations that claim what is not so: the image's header is asked before memory is taken."""

import base64
import io
import json
import os
import resource
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import yaml
from PIL import Image

from hfgd.data import archive
from hfgd.data.classes import LabelMap
from hfgd.data.formats.regions import OUTLINE, Patch, Polygons, decode_mask
from hfgd.errors import HfgdError
from miniatures import BUILDERS, SIZE, pictures, png


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data).replace('"@DIGITS@"', "9" * 5000))


def coco(change):
    return lambda root: edit(root / "annotations/instances_train.json", change)


def region(**values):
    return coco(lambda d: d["annotations"][0].update(values))


def unsized(**values):
    """As ``region``, of images that state no size."""

    def change(data):
        for image in data["images"]:
            del image["height"], image["width"]
        data["annotations"][0].update(values)

    return coco(change)


def labelme(change):
    return lambda root: edit(root / "train/shot0.json", change)


def supervisely(change):
    return lambda root: edit(root / "train/ann/shot0.png.json", change)


def studio(change):
    return lambda root: edit(root / "project-1.json", change)


def table(name, text):
    return lambda root: (root / name).write_text(text)


def zeros(megabytes):
    """A zlib text that unpacks to so much."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(megabytes)]
    return base64.b64encode(b"".join(parts) + packer.flush()).decode()


def claiming(height, width):
    """A PNG whose header says so."""
    data = png(np.zeros((2, 2), np.uint8))
    header = struct.pack(">II", width, height) + data[24:29]
    return data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]


def bitmap(data):
    text = base64.b64encode(zlib.compress(data)).decode()
    return supervisely(lambda d: d["objects"][0]["bitmap"].update(data=text))


def damaged_pages(root):
    """The footer stays as it is, what is between is overwritten."""
    path = root / "train-00000-of-00001.parquet"
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = os.urandom(len(data) // 2 - 4)
    path.write_bytes(data)


LENIENT = ("coco: a colour of texts", "studio: ids")  # which nobody needs
HUGE = {"size": [200_000, 200_000], "counts": [40_000_000_000]}
MASK = {"shape_type": "mask", "points": [[0, 0], [99_999, 99_999]], "mask": "AAAA"}
ATTACKS = {
    "coco: runs of 200,000²": ("coco", region(segmentation=HUGE)),
    "coco: runs of 200,000², no size": ("coco", unsized(segmentation=HUGE)),
    "coco: an image of 2³¹": ("coco", coco(lambda d: d["images"][0].update(height=2**31))),
    "coco: a size below 0": ("coco", coco(lambda d: d["images"][0].update(height=-24))),
    "coco: a size of 5,000 digits": ("coco", coco(lambda d: d["images"][0].update(height="@DIGITS@"))),
    "coco: a size of 300 digits": ("coco", coco(lambda d: d["images"][0].update(height=10**300))),
    "coco: a point of 400 digits": ("coco", region(segmentation=[[10**399] * 6])),
    "coco: a class that is a list": ("coco", region(category_id=[1])),
    "coco: an endless number": ("coco", region(segmentation={"size": list(SIZE), "counts": "o" * 99_999})),
    "coco: a colour of texts": ("coco", coco(lambda d: d["categories"][0].update(color=[[], {}, 1]))),
    "coco: annotations": ("coco", coco(lambda d: d["annotations"].extend([None, 1]))),
    "panoptic: segments": (
        "coco_panoptic",
        lambda r: edit(
            r / "annotations/panoptic_train.json",
            lambda d: d["annotations"][0].update(segments_info=[1, None]),
        ),
    ),
    "labelme: 2³¹": ("labelme", labelme(lambda d: d.update(imageHeight=2**31, imageWidth=2**31))),
    "labelme: a mask of 100,000²": ("labelme", labelme(lambda d: d["shapes"][0].update(MASK))),
    "labelme: shapes of numbers": ("labelme", labelme(lambda d: d.update(shapes=[1]))),
    "labelme: no text": ("labelme", labelme(lambda d: d.update(imagePath=["x"]))),
    "supervisely: a bomb": (
        "supervisely",
        supervisely(lambda d: d["objects"][0]["bitmap"].update(data=zeros(80))),
    ),
    "supervisely: a PNG of 13,000²": ("supervisely", bitmap(claiming(13_000, 13_000))),
    "supervisely: a PNG of 2³¹": ("supervisely", bitmap(claiming(2**31 - 1, 2**31 - 1))),
    "supervisely: true": (
        "supervisely",
        supervisely(
            lambda d: d["objects"][1].update(
                geometryType="polygon", points={"exterior": [[0, 0], [1, 0], [1, 1]], "interior": True}
            )
        ),
    ),
    "supervisely: no object": ("supervisely", supervisely(lambda d: d.update(objects=[1, []]))),
    "supervisely: a size": ("supervisely", supervisely(lambda d: d.update(size={"height": {}, "width": []}))),
    "kaggle: 5,000 digits": (
        "kaggle", table("masks.csv", f"ImageId,EncodedPixels,ClassId\nshot0.png,{'9' * 5000} 1,car\n")
    ),
    "studio: an image of 2³¹": (
        "labelstudio",
        studio(
            lambda d: [
                r.update(original_height=2**31, original_width=2**31)
                for r in d[0]["annotations"][1]["result"]
            ]
        ),
    ),
    "studio: results": ("labelstudio", studio(lambda d: d[0]["annotations"][1].update(result=[1, [2]]))),
    "studio: tasks": ("labelstudio", studio(lambda d: d.insert(1, 7))),
    "studio: ids": (
        "labelstudio",
        studio(lambda d: [r.update(id=[1]) for r in d[0]["annotations"][1]["result"]]),
    ),
    "ultralytics: val: 0.5": (
        "ultralytics", table("set.yaml", "names: [car, road, tree]\ntrain: images/train\nval: 0.5\n")
    ),
    "ultralytics: an id of 4·10⁹": (
        "ultralytics",
        table(
            "set.yaml",
            "names: [car]\ntrain: images/train\nmasks_dir: masks\nlabel_mapping: {4000000000: 0}\n",
        ),
    ),
    "parquet: an id of 4·10⁹": ("parquet", table("id2label.json", '{"4000000000": "car"}')),
    "parquet: a negative id": ("parquet", table("id2label.json", '{"-5": "car"}')),
    "parquet: damaged pages": ("parquet", damaged_pages),
    "roboflow: 5,000 digits": (
        "roboflow", table("train/_classes.csv", f"Pixel Value, Class\n{'9' * 5000}, car\n")
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_one_sentence_little_memory_and_nothing_left(attack, tmp_path, run):
    name, damage = ATTACKS[attack]
    BUILDERS[name](tmp_path / "in", pictures())
    damage(tmp_path / "in")
    tracemalloc.start()
    try:
        code, _, err = run(
            "data", "import", tmp_path / "in", "--format", name, "--out", tmp_path / "out"
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if attack not in LENIENT:
        assert code == 2, err
        assert err.count("hfgd: ") == 1
        assert not (tmp_path / "out" / "data.yaml").exists()
    assert "Traceback" not in err
    assert peak < 60_000_000


def test_a_label_image_of_another_size_is_refused_before_it_is_read(tmp_path, run):
    """12,000 × 12,000 pixels of one bit are 20 kB packed; as colours they would take 1.2 GB."""
    BUILDERS["voc"](tmp_path / "in", pictures())
    Image.new("1", (12_000, 12_000)).save(tmp_path / "in/SegmentationClass/shot0.png")
    tracemalloc.start()
    code, _, err = run("data", "import", tmp_path / "in", "--out", tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert code == 2
    assert "24×40" in err
    assert "12000×12000" in err
    assert peak < 60_000_000


def test_an_outline_longer_than_any_drawing():
    ring = [0.0, 0.0, 3999.0, 3999.0] * (OUTLINE // 7000)
    with pytest.raises(HfgdError, match="outline is longer"):
        Polygons((tuple(ring),)).mask(1000, 1000)


@pytest.mark.parametrize(
    ("left", "top"), [(-30, 0), (0, 30), (50, 50), (-3, -3), (7, 6), (99, -99)]
)
def test_a_patch_outside_is_cut_off_as_a_loop_does(left, top):
    patch = np.arange(10 * 12).reshape(10, 12) % 3 > 0
    expected = np.zeros((9, 9), dtype=bool)
    for y in range(10):
        for x in range(12):
            if 0 <= y + top < 9 and 0 <= x + left < 9:
                expected[y + top, x + left] = patch[y, x]
    found = Patch(lambda *_: patch, left, top, clip=True).mask(9, 9)
    assert np.array_equal(found, expected)


def test_run_lengths_without_end_are_refused():
    with pytest.raises(HfgdError, match="no image reaches"):
        decode_mask({"size": [4, 4], "counts": "o" * 1_000_000})


def test_label_maps_hold_what_label_images_can():
    for table, colours in (({1 << 16: 0}, False), ({-1: 0}, False), ({1 << 24: 0}, True)):
        with pytest.raises(HfgdError, match="none that a label image can hold"):
            LabelMap(table, colours)
    assert LabelMap({65535: 0}).table == {65535: 0}


# ---- archives, pipes, two at once --------------------------------------------------------------


@pytest.mark.parametrize("lie", [False, True])
def test_a_member_that_unpacks_to_much_is_refused(lie, tmp_path, monkeypatch):
    """Whether or not the archive tells the size: no more than the bound is unpacked."""
    monkeypatch.setattr(archive, "LARGEST", 1 << 22)
    monkeypatch.setattr(archive, "PIECE", 1 << 20)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("big.png", bytes(40_000_000))
    data = bytearray(file.getvalue())
    if lie:
        at = data.rfind(b"PK\x01\x02")
        data[at + 24 : at + 28] = struct.pack("<I", 1 << 21)
    (tmp_path / "x.zip").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(HfgdError, match=r"big\.png' (unpacks to more than 4 MiB|cannot be read)"):
        archive.read_bytes(archive.Entry(tmp_path / "x.zip", "big.png"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize("where", ["the input", "an annotation", "an image", "a zip"])
def test_a_pipe_is_refused_at_once(where, tmp_path, run):
    """Reading one would wait for ever."""
    BUILDERS["coco"](tmp_path / "in", pictures())
    path = {
        "the input": tmp_path / "pipe.json",
        "an annotation": tmp_path / "in/annotations/instances_train.json",
        "an image": tmp_path / "in/train/shot0.png",
        "a zip": tmp_path / "in/more.zip",
    }[where]
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    source = path if where == "the input" else tmp_path / "in"
    found = []
    words = ("data", "import", source, "--format", "coco", "--out", tmp_path / "out")
    thread = threading.Thread(target=lambda: found.append(run(*words)), daemon=True)
    thread.start()
    thread.join(60)
    assert found, "it waits for the pipe"
    assert found[0][0] == 2
    assert "is a pipe, a socket or a device" in found[0][2]


@pytest.mark.parametrize("place", ["images/train/train0.png", "labels/train/train0.png"])
def test_data_check_names_a_pipe(place, folder, run):
    (folder / place).unlink()
    os.mkfifo(folder / place)
    code, out, _ = run("data", "check", folder)
    assert code == 1
    assert "is a pipe" in " ".join(out.split())


def test_two_imports_into_one_folder(tmp_path, run):
    fcntl = pytest.importorskip("fcntl")
    BUILDERS["voc"](tmp_path / "in", pictures())
    (tmp_path / "out").mkdir()
    handle = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as the other one holds it
    words = ("data", "import", tmp_path / "in", "--out", tmp_path / "out")
    code, _, err = run(*words)
    assert code == 2
    assert "another process is writing into" in err
    assert not any((tmp_path / "out").iterdir())
    os.close(handle)
    assert run(*words)[0] == 0


def test_a_file_in_the_place_of_a_folder(tmp_path, run):
    """'a.jpg' and 'a.png/b.jpg' would need labels/a.png both as a file and as a folder."""
    (tmp_path / "in/images/train/a.png").mkdir(parents=True)
    pixels = Image.fromarray(pictures(1)[0].pixels)
    pixels.save(tmp_path / "in/images/train/a.jpg")
    pixels.save(tmp_path / "in/images/train/a.png/b.jpg")
    for name in ("a", "a.png/b"):
        text = tmp_path / f"in/labels/train/{name}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    spec = {"names": ["car"], "train": "images/train", "val": "images/train"}
    (tmp_path / "in/set.yaml").write_text(yaml.safe_dump(spec))
    words = (
        "data",
        "import",
        tmp_path / "in",
        "--format",
        "ultralytics",
        "--out",
        tmp_path / "out",
    )
    code, _, err = run(*words)
    assert code == 2
    assert "rename one" in err or "both be called" in err
    assert not (tmp_path / "out").exists()


def test_the_largest_file_of_a_process_is_a_full_disk(tmp_path):
    """EFBIG, from a limit that a shell or a cluster sets; EDQUOT is taken for the same."""
    rng = np.random.default_rng(0)
    shot = pictures(1)[0]
    (tmp_path / "in/train").mkdir(parents=True)
    BUILDERS["voc"](tmp_path / "in", [shot, shot._replace(name="shot1", split="val")])
    noise = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "in/JPEGImages/shot0.png")
    words = [sys.executable, "-m", "hfgd", "data", "import", "in", "--out", "out"]
    done = subprocess.run(
        words,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in done.stderr
    assert not list((tmp_path / "out").rglob("*.part"))
