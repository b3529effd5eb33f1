"""Damaged exports: one sentence with the file and the key, exit code 2, and no data.yaml."""

import json
import re
import sys

import pytest
from PIL import Image

from miniatures import BUILDERS, pictures


def edit(path, change):
    data = json.loads(path.read_text())
    changed = change(data)
    path.write_text(json.dumps(data if changed is None else changed))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def annotation(number=0, **changes):
    """Change an annotation of COCO's train file."""
    return lambda root: edit(
        root / "annotations/instances_train.json",
        lambda d: d["annotations"][number].update(changes),
    )


def coco_data(change):
    return lambda root: edit(root / "annotations/instances_train.json", change)


def panoptic(change):
    return lambda root: edit(root / "annotations/panoptic_train.json", change)


def shape(number=0, **changes):
    return lambda root: edit(
        root / "train/shot0.json", lambda d: d["shapes"][number].update(changes)
    )


def task(change):
    return lambda root: edit(root / "project-1.json", lambda d: change(d[0]))


def region(number=0, **changes):
    return task(lambda t: t["annotations"][1]["result"][number]["value"].update(changes))


def thing(number=0, **changes):
    return lambda root: edit(
        root / "train/ann/shot0.png.json", lambda d: d["objects"][number].update(changes)
    )


def rows(*lines):
    return lambda root: (root / "masks.csv").write_text("\n".join(lines) + "\n")


def mask(path, value, mode="L"):
    return lambda root: Image.new(mode, (40, 24), value).save(root / path)


IMAGE = "ImageId,EncodedPixels,ClassId"
FULL = {"counts": [24 * 40 + 1], "size": [24, 40]}

MISTAKES = [
    ("coco", "cut off", lambda r: cut(r / "annotations/instances_train.json"),
     r"instances_train\.json' is no valid JSON from line 1 on"),
    ("coco", "unknown category", annotation(2, category_id=7),
     r"instances_train\.json': annotation 2: the category_id 7 is not in 'categories'"),
    ("coco", "unknown image", annotation(1, image_id=77), r"annotation 1: the image_id 77 is not"),
    ("coco", "runs too long", annotation(0, segmentation=FULL),
     r"annotation 0: a run-length mask covers 961 pixels instead of 960"),
    ("coco", "runs of another size", annotation(0, segmentation={"counts": [9], "size": [3, 3]}),
     r"annotation 0: 'size' is \[3, 3\], and the image is \(24, 40\)"),
    ("coco", "compressed runs cut off", annotation(0, segmentation={"counts": "0Q", "size": [24, 40]}),
     r"annotation 0: a run-length mask ends within a number"),
    ("coco", "compressed runs too short", annotation(0, segmentation={"counts": "11", "size": [24, 40]}),
     r"annotation 0: a run-length mask covers 2 pixels instead of 960"),
    ("coco", "no text of runs", annotation(0, segmentation={"counts": "é", "size": [24, 40]}),
     r"annotation 0: a run-length mask holds the character"),
    ("coco", "odd polygon", annotation(1, segmentation=[[1, 2, 3, 4, 5]]),
     r"annotation 1: 'segmentation' has an odd number"),
    ("coco", "no numbers", annotation(1, segmentation=[[1, 2, "a", 4, 5, 6]]),
     r"annotation 1: 'segmentation' is .* not a list of numbers"),
    ("coco", "far away", annotation(1, segmentation=[[1, 2, 1e9, 4, 5, 6]]),
     r"annotation 1: a point lies far outside"),
    ("coco", "missing image", lambda r: (r / "train/shot1.png").unlink(),
     r"image 1 names the image 'shot1\.png', and there is no such image below"),
    ("coco", "class twice", coco_data(lambda d: d["categories"][1].update(name="car")),
     r"instances_train\.json' lists the class 'car' twice"),
    ("coco", "id twice", coco_data(lambda d: d["categories"][1].update(id=10)), r"the id 10 is listed twice"),
    ("coco", "other categories", coco_data(lambda d: d["categories"][1].update(name="lane")),
     r"instances_val\.json' have different categories"),
    ("coco", "boxes alone", lambda r: [edit(p, lambda d: [a.update(segmentation=[]) for a in d["annotations"]] and None)
                                       for p in (r / "annotations").iterdir()],
     r"has boxes and no masks"),
    ("coco", "an image twice", coco_data(lambda d: d["images"][1].update(file_name="shot0.png")),
     r"images: 'shot0\.png' \(id 1\) is listed twice"),
    ("coco_panoptic", "cut off", lambda r: cut(r / "annotations/panoptic_train.json"), r"is no valid JSON"),
    ("coco_panoptic", "missing PNG", lambda r: (r / "annotations/panoptic_train/shot1.png").unlink(),
     r"panoptic_train\.json': image 1: there is no 'panoptic_train/shot1\.png'"),
    ("coco_panoptic", "PNG cut off", lambda r: cut(r / "annotations/panoptic_train/shot1.png"),
     r"shot1\.png' is broken or truncated"),
    ("coco_panoptic", "unlisted segment", panoptic(lambda d: d["annotations"][0]["segments_info"].pop(3) and None),
     r"shot0\.png' has pixels of the segment 280004, which 'segments_info' does not list"),
    ("coco_panoptic", "unknown category",
     panoptic(lambda d: d["annotations"][0]["segments_info"][0].update(category_id=9)),
     r"segment 70001: the category_id 9 is not in 'categories'"),
    ("labelme", "cut off", lambda r: cut(r / "train/shot1.json"), r"shot1\.json' is no valid JSON"),
    ("labelme", "missing image", lambda r: (r / "train/shot1.png").unlink(),
     r"shot1\.json' names the image 'shot1\.png'"),
    ("labelme", "bad base64", shape(2, mask="***"), r"shot0\.json': shape 2: 'mask' is no PNG in base64"),
    ("labelme", "mask of another size", shape(2, points=[[0, 0], [2, 2]]), r"shape 2: 'mask' is .* span \(3, 3\)"),
    ("labelme", "unknown shape", shape(0, shape_type="star"), r"shape 0: the shape_type 'star' is not known"),
    ("labelme", "rectangle of three points", shape(1, points=[[0, 0], [1, 1], [2, 2]]),
     r"shape 1: a rectangle has two points, not 3"),
    ("labelme", "label not listed", lambda r: (r / "labels.txt").write_text("car\nroad\n"),
     r"the label 'tree' is not in labels\.txt"),
    ("labelme", "no number", shape(0, points=[[1, None]]), r"shape 0: 'points' is \[1, None\]"),
    ("cvat", "no labelmap line", lambda r: replace(r / "labelmap.txt", "128,64,128", "128,64"),
     r"labelmap\.txt': line 4 is not of the form"),
    ("cvat", "class twice", lambda r: replace(r / "labelmap.txt", "road:", "car:"), r"lists the class 'car' twice"),
    ("cvat", "colour twice", lambda r: replace(r / "labelmap.txt", "128,64,128", "0,0,142"),
     r"'car' and 'road' have the same colour"),
    ("cvat", "unknown colour", mask("SegmentationClass/shot1.png", (1, 2, 3), "RGB"),
     r"shot1\.png' holds colours #010203, and '.*labelmap\.txt' lists no such"),
    ("cvat", "missing image", lambda r: (r / "JPEGImages/shot1.png").unlink(), r"names the image 'shot1'"),
    ("cvat", "mask cut off", lambda r: cut(r / "SegmentationClass/shot1.png"), r"shot1\.png' is broken or trunc"),
    ("cvat", "in two lists", lambda r: replace(r / "ImageSets/Segmentation/val.txt", "shot3", "shot3\nshot0"),
     r"val\.txt' lists 'shot0' for val, and another list for train"),
    ("voc", "another palette", mask("SegmentationClass/shot1.png", 1, "P"),
     r"shot1\.png' has a palette that is not VOC's"),
    ("voc", "unknown id", mask("SegmentationClass/shot1.png", 9), r"shot1\.png' holds ids 9, and '.*class_names\.txt'"),
    ("voc", "size", lambda r: Image.new("L", (39, 24)).save(r / "SegmentationClass/shot1.png"),
     r"shot1\.png' is of an image of 24×39.*is 24×40"),
    ("roboflow", "unknown value", mask("train/shot1_png.rf.0a1b_mask.png", 9),
     r"_mask\.png' holds ids 9, and '.*_classes\.csv' lists no such"),
    ("roboflow", "class twice", lambda r: [replace(r / s / "_classes.csv", "road", "car") for s in ("train", "valid")],
     r"_classes\.csv' lists the class 'car' twice"),
    ("roboflow", "tables differ", lambda r: replace(r / "valid/_classes.csv", "road", "lane"), r"list different classes"),
    ("roboflow", "no number", lambda r: replace(r / "train/_classes.csv", "1, car", "one, car"),
     r"_classes\.csv': line 3: 'Pixel Value' is 'one'"),
    ("roboflow", "missing image", lambda r: (r / "train/shot1_png.rf.0a1b.jpg").unlink(),
     r"names the image 'shot1_png\.rf\.0a1b'"),
    ("labelstudio", "cut off", lambda r: cut(r / "project-1.json"), r"project-1\.json' is no valid JSON"),
    ("labelstudio", "brush cut off", task(lambda t: t["annotations"][1]["result"][0]["value"]["rle"].__delitem__(slice(-9, None))),
     r"project-1\.json': task 0: region r0: 'rle' ends before"),
    ("labelstudio", "brush of another size", task(lambda t: t["annotations"][1]["result"][0]["value"]["rle"].__setitem__(3, 4)),
     r"region r0: 'rle' holds 3844 values, and an image of 24×40"),
    ("labelstudio", "no bytes", region(0, rle=[1, 300]), r"region r0: 'rle' is \[1, 300\], not a list of bytes"),
    ("labelstudio", "two labels", region(0, brushlabels=["car", "road"]),
     r"region r0 has the labels \['car', 'road'\]; a pixel has exactly one"),
    ("labelstudio", "two annotators", task(lambda t: t["annotations"][0].update(was_cancelled=False)),
     r"task 0 has 2 annotations, and which one is right"),
    ("labelstudio", "missing image", lambda r: (r / "images/shot0.png").unlink(),
     r"task 0 names the image '3f2a9c1e-shot0\.png'"),
    ("labelstudio", "another area", task(lambda t: t["annotations"][1]["result"][0].update(type="bitmask")),
     r"region r0: areas of the type 'bitmask' are not read"),
    ("ultralytics", "unknown class", lambda r: replace(r / "labels/train/shot0.txt", "0 ", "8 "),
     r"shot0\.txt': line 1: there is no class 8 in 'names' \(0 to 2\)"),
    ("ultralytics", "boxes", lambda r: (r / "labels/train/shot0.txt").write_text("0 .5 .5 .2 .2\n"),
     r"shot0\.txt': line 1 is a box and no polygon"),
    ("ultralytics", "pixels", lambda r: (r / "labels/train/shot0.txt").write_text("0 1 1 20 1 20 9\n"),
     r"shot0\.txt': line 1 has coordinates outside of 0 to 1"),
    ("ultralytics", "words", lambda r: (r / "labels/train/shot0.txt").write_text("0 a b c d e f\n"),
     r"line 1 holds something else than numbers"),
    ("ultralytics", "no folder", lambda r: replace(r / "set.yaml", "images/val", "images/vall"),
     r"set\.yaml': 'val: images/vall' leads to no image"),
    ("ultralytics", "broken yaml", lambda r: (r / "set.yaml").write_text("names: [a\n"), r"set\.yaml' is no valid YAML"),
    ("ultralytics", "gap in names", lambda r: replace(r / "set.yaml", "2:", "5:"), r"'names' must be numbered from 0"),
    ("ultralytics", "no mask", lambda r: (r / "set.yaml").write_text((r / "set.yaml").read_text() + "masks_dir: masks\n"),
     r"shot0\.png' has no mask 'masks/train/shot0\.png'"),
    ("kaggle", "odd", rows(IMAGE, "shot0.png,1 2 3,car"), r"masks\.csv': line 2: the run lengths '1 2 3' are no pairs"),
    ("kaggle", "beyond the end", rows(IMAGE, "shot0.png,950 20,car"),
     r"line 2: the run '950 20' is not within the 960 pixels"),
    ("kaggle", "from zero", rows(IMAGE, "shot0.png,0 2,car"), r"line 2: the run '0 2' is not within"),
    ("kaggle", "missing image", rows(IMAGE, "nope.png,1 2,car"), r"masks\.csv' names the image 'nope\.png'"),
    ("kaggle", "cut off", rows(IMAGE, "shot0.png,1 2,car", "shot1.png,1"), r"line 3 has 2 columns instead of 3"),
    ("kaggle", "relative", rows(IMAGE, "shot0.png,100 5 7 5,car"),
     r"line 2: the run '7 5' begins before the end of the run before it: these are relative"),
    ("cvat_images", "video", lambda r: replace(r / "annotations.xml", "<image id", "<track id='9'/><image id"),
     r"annotations\.xml' is 'CVAT for video', whose tracks are not read; export 'CVAT for images"),
    ("cvat_images", "cut off", lambda r: cut(r / "annotations.xml"), r"annotations\.xml' is no valid XML"),
    ("cvat_images", "entities", lambda r: replace(r / "annotations.xml", "<annotations>",
     "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations>"), r"annotations\.xml' has a document type"),
    ("cvat_images", "runs", lambda r: replace(r / "annotations.xml", 'rle="0, ', 'rle="7, '),
     r"mask \d: its run lengths cover"),
    ("cvat_images", "points", lambda r: replace(r / "annotations.xml", 'points="', 'points="x;'),
     r"polygon \d: 'points' is 'x;"),
    ("parquet", "cut off", lambda r: cut(r / "train-00000-of-00001.parquet"), r"train-.*\.parquet' is no parquet file"),
    ("parquet", "no names", lambda r: (r / "id2label.json").unlink(), r"put an id2label\.json"),
    ("parquet", "unknown value", lambda r: edit(r / "id2label.json", lambda d: d.pop("3") and None),
     r"row 0 \('label'\)' holds ids 3, and '.*id2label\.json' lists no such"),
    ("parquet", "name twice", lambda r: edit(r / "id2label.json", lambda d: d.update({"3": "car"})),
     r"id2label\.json' lists the class 'car' twice"),
    ("supervisely", "cut off", lambda r: cut(r / "train/ann/shot1.png.json"), r"shot1\.png\.json' is no valid JSON"),
    ("supervisely", "unknown class", thing(0, classTitle="cow"), r"object 0: the class 'cow' is not in meta\.json"),
    ("supervisely", "bad base64", thing(0, bitmap={"data": "***", "origin": [0, 0]}),
     r"shot0\.png\.json': object 0: 'bitmap\.data' is no base64 text"),
    ("supervisely", "no zlib", thing(0, bitmap={"data": "AAAA", "origin": [0, 0]}), r"object 0: 'bitmap\.data' is no base64"),
    ("supervisely", "sticks out", lambda r: edit(r / "train/ann/shot0.png.json", lambda d: d["objects"][0]["bitmap"].update(origin=[38, 0])),
     r"object 0: its mask of \d+×\d+ at \(38, 0\) sticks out"),
    ("supervisely", "unknown geometry", thing(0, geometryType="blob"), r"object 0: the geometryType 'blob' is not known"),
    ("supervisely", "missing image", lambda r: (r / "train/img/shot1.png").unlink(), r"names the image 'shot1\.png'"),
    ("supervisely", "no colour", lambda r: replace(r / "meta.json", "#00008e", "blue"), r"'color' is 'blue', not"),
    ("supervisely", "another size", lambda r: edit(r / "train/ann/shot1.png.json", lambda d: d["size"].update(height=20)),
     r"shot1\.png\.json' is of an image of 20×40"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [pytest.param(n, d, w, id=f"{n}: {what}") for n, what, d, w in MISTAKES],
)
def test_damage_is_one_sentence_and_exit_code_2(tmp_path, run, name, damage, words):
    root = tmp_path / "source"
    root.mkdir()
    BUILDERS[name](root, pictures())
    damage(root)
    code, _, err = run("data", "import", root, "--out", tmp_path / "out")
    assert code == 2, err
    said = err.strip().splitlines()
    assert len(said) == 1, err
    assert said[0].startswith("hfgd: ")
    assert re.search(words, said[0]), said[0]
    assert not (tmp_path / "out/data.yaml").exists()


@pytest.mark.parametrize("name", BUILDERS)
def test_every_format_has_mistakes_that_are_tried(name):
    assert sum(mistake[0] == name for mistake in MISTAKES) >= 3


@pytest.mark.parametrize(
    ("name", "module", "words"),
    [("coco", "pycocotools", "polygons need pycocotools"), ("parquet", "pyarrow", "need pyarrow")],
)
def test_what_is_not_installed_is_named(tmp_path, run, monkeypatch, name, module, words):
    root = tmp_path / "source"
    BUILDERS[name](root, pictures())
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run("data", "import", root, "--out", tmp_path / "out")
    assert code == 2
    assert words in err
    assert "pip install 'hfgd[import]'" in err
