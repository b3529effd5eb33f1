"""Polygons, run lengths and brushes against pycocotools and against loops; what each format allows."""

import base64
import io
import json
import math
import zlib

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from hfgd.data.formats.coco_panoptic import segments_to_classes
from hfgd.data.formats.cvat import parse_labelmap
from hfgd.data.formats.kaggle import parse_runs
from hfgd.data.formats.labelstudio import decode_brush
from hfgd.data.formats.regions import Ellipse, Patch, Polygons, Spans, box, decode_mask
from hfgd.data.formats.supervisely import decode_bitmap
from hfgd.data.formats.tree import clean, split_of_file, split_of_folders, without_suffix
from hfgd.data.importing.import_data import import_data
from hfgd.data.importing.write_import import Rules
from hfgd.errors import HfgdError
from miniatures import BUILDERS, SIZE, brush, column_runs, dump, pictures, png, save
from test_formats import digests, labels
from test_survival import killed_child

mask_api = pytest.importorskip("pycocotools.mask")


def random_mask(rng, height, width):
    """Blobs and noise, so that there are long runs and single pixels."""
    coarse = rng.random((height // 4 + 1, width // 4 + 1)) < 0.5
    mask = np.kron(coarse, np.ones((4, 4), dtype=bool))[:height, :width]
    return mask ^ (rng.random((height, width)) < 0.05)


# ---- COCO -----------------------------------------------------------------------------------


@pytest.mark.situation(
    "coco",
    "run lengths, plain and compressed",
    "read, as pycocotools does",
)
@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_are_pycocotools(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(1, 60, 2))
    mask = random_mask(rng, height, width)
    packed = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    plain = {"size": [height, width], "counts": column_runs(mask)}
    assert np.array_equal(decode_mask(packed), mask)
    assert np.array_equal(decode_mask(packed | {"counts": packed["counts"].decode()}), mask)
    assert np.array_equal(decode_mask(plain), mask)


def test_run_lengths_that_pycocotools_takes_for_a_mask_are_refused():
    """It gives left-over memory where runs are missing; we refuse."""
    packed = mask_api.encode(np.asfortranarray(np.eye(4, 5, dtype=np.uint8)))
    with pytest.raises(HfgdError, match="instead of 20"):
        decode_mask(packed | {"counts": packed["counts"][:-2]})
    with pytest.raises(HfgdError, match="covers 7 pixels instead of 12"):
        decode_mask({"size": [3, 4], "counts": [3, 4]})
    with pytest.raises(HfgdError, match="negative run"):
        decode_mask({"size": [3, 4], "counts": [14, -2]})


@pytest.mark.parametrize("seed", range(10))
def test_coco_polygons_are_pycocotools(tmp_path, seed):
    """Through a whole import: several rings a shape, points outside of the image."""
    rng = np.random.default_rng(seed)
    rings = [rng.uniform(-5, 45, 2 * int(rng.integers(3, 8))).tolist() for _ in range(2)]
    save(tmp_path / "a/x.png", np.zeros((*SIZE, 3)))
    record = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": rings}
    image = {"id": 1, "file_name": "x.png", "height": SIZE[0], "width": SIZE[1]}
    content = {"images": [image], "annotations": [record], "categories": [{"id": 1, "name": "a"}]}
    dump(tmp_path / "a/c.json", content)
    import_data(tmp_path / "a", tmp_path / "out", Rules(unlabelled="background"))
    runs = mask_api.merge(mask_api.frPyObjects(rings, *SIZE))
    assert np.array_equal(labels(tmp_path / "out")[0]["x"], mask_api.decode(runs))


@pytest.mark.parametrize("seed", range(30))
def test_polygons_that_share_an_edge_neither_overlap_nor_leave_a_gap(seed):
    rng = np.random.default_rng(seed)
    one, other = rng.uniform(5, 55, (2, 2))
    across = np.array([one[1] - other[1], other[0] - one[0]]) * rng.uniform(0.2, 0.5)
    left, right = (one + other) / 2 + across, (one + other) / 2 - across
    left_half, right_half, both = (
        Polygons((tuple(np.concatenate(corners)),)).mask(60, 60)
        for corners in ([one, other, left], [one, other, right], [one, left, other, right])
    )
    assert not (left_half & right_half).any()
    assert np.array_equal(left_half | right_half, both)


def test_two_polygons_of_pil_share_their_outline():
    """What LabelMe draws with; here is why another rasteriser was taken."""
    halves = []
    for corner in ((4, 18), (18, 4)):
        picture = Image.new("1", (24, 24))
        ImageDraw.Draw(picture).polygon([(4, 4), (18, 18), corner], outline=1, fill=1)
        halves.append(np.asarray(picture))
    assert (halves[0] & halves[1]).sum() >= 15


def test_two_points_enclose_nothing_and_four_numbers_are_no_box():
    assert not Polygons(((1, 1, 9, 9),)).mask(12, 12).any()
    assert not Polygons(()).mask(12, 12).any()
    hole = Polygons(((0, 0, 8, 0, 8, 8, 0, 8),), ((2, 2, 4, 2, 4, 4, 2, 4),)).mask(9, 9)
    expected = np.zeros((9, 9), dtype=bool)
    expected[:8, :8] = True
    expected[2:4, 2:4] = False
    assert np.array_equal(hole, expected)


@pytest.mark.situation(
    "coco",
    "COCO's own crowds; boxes without masks",
    "below all others; left out, counted",
)
def test_crowds_lie_below_and_boxes_are_left_out(tmp_path):
    root = tmp_path / "a"
    save(root / "x.png", np.zeros((*SIZE, 3)))
    ring = [[0, 0, 10, 0, 10, 10, 0, 10]]
    everything = {"size": list(SIZE), "counts": [0, SIZE[0] * SIZE[1]]}
    records = [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": ring},
        {"id": 2, "image_id": 1, "category_id": 2, "segmentation": everything, "iscrowd": 1},
        {"id": 3, "image_id": 1, "category_id": 2, "segmentation": [], "bbox": [1, 1, 2, 2]},
    ]
    records[1]["id"] = 900_100_000_001  # as COCO numbers its crowds
    image = {"id": 1, "file_name": "x.png", "height": SIZE[0], "width": SIZE[1]}
    kinds = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    dump(root / "c.json", {"images": [image], "annotations": records, "categories": kinds})
    report = import_data(root, tmp_path / "out")
    label = labels(tmp_path / "out")[0]["x"]
    expected = np.ones(SIZE)
    expected[:10, :10] = 0
    assert np.array_equal(label, expected)
    notes = " ".join(report.notes)
    assert "1 annotation of crowds" in notes
    assert "1 annotation with a box and no segmentation left out" in notes


@pytest.mark.situation(
    "coco",
    "instances, keypoints and captions in one folder",
    "read: the instances",
)
def test_coco_folder_repeats_its_instances_as_keypoints(tmp_path):
    root = tmp_path / "source"
    BUILDERS["coco"](root, pictures())
    for split in ("train", "val"):
        data = json.loads((root / f"annotations/instances_{split}.json").read_text())
        dump(root / f"annotations/person_keypoints_{split}.json", data)
        captions = [{"id": 1, "image_id": 0, "caption": "a road"}]
        dump(root / f"annotations/captions_{split}.json", data | {"annotations": captions})
    assert import_data(root, tmp_path / "out").splits == {"train": 3, "val": 1}


@pytest.mark.situation(
    "coco_panoptic",
    "ids of three bytes",
    "read",
)
def test_panoptic_ids_have_three_bytes(tmp_path):
    ids = np.array([[0, 255, 256], [65536, 70000, 16777215]])
    save(tmp_path / "x.png", np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1))
    table = {255: 0, 256: 1, 65536: 2, 70000: 3, 16777215: 4}
    label = segments_to_classes(tmp_path / "x.png", table, "here")
    assert label.tolist() == [[254, 0, 1], [2, 3, 4]]


# ---- Label Studio ---------------------------------------------------------------------------


def literal_brush(mask, rng):
    """The bit stream without a single run: blocks of values as they are, of random lengths."""
    lengths = [int(n) for n in rng.integers(1, 17, 4)]
    values = [int(v) for v in np.repeat(mask.ravel(), 4) * rng.integers(1, 256, mask.size * 4)]
    bits = [f"{len(values):032b}", "00111", *(f"{n - 1:04b}" for n in lengths)]
    while values:
        which = int(rng.integers(4))
        count = min(len(values), int(rng.integers(1, 2 ** min(lengths[which], 6) + 1)))
        bits += ["0", f"{which:02b}", f"{count - 1:0{lengths[which]}b}"]
        bits += [f"{v:08b}" for v in values[:count]]
        values = values[count:]
    text = "".join(bits)
    return bytes(int(text[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(text), 8))


@pytest.mark.parametrize("seed", range(15))
def test_brushes_come_back_whatever_their_header_says(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(1, 40, 2))
    mask = random_mask(rng, height, width)
    lengths = sorted(int(n) for n in rng.choice(np.arange(1, 17), 4, replace=False))
    packed = bytes(brush(mask, lengths, word=8 + int(rng.integers(9))))
    assert np.array_equal(decode_brush(packed, height, width), mask)
    assert np.array_equal(decode_brush(literal_brush(mask, rng), height, width), mask)


def test_a_brush_counts_by_its_alpha_alone():
    values = [255, 255, 255, 0, 0, 0, 0, 9]  # a white transparent pixel, a black faint one
    bits = f"{8:032b}" + "00111" + "0000" * 4 + "".join(f"0000{v:08b}" for v in values)
    packed = bytes(int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8))
    assert decode_brush(packed, 1, 2).tolist() == [[False, True]]


@pytest.mark.parametrize("seed", range(20))
def test_broken_brushes_are_a_mask_or_a_sentence(seed):
    rng = np.random.default_rng(seed)
    packed = bytearray(brush(random_mask(rng, 12, 17)))
    for _ in range(4):
        packed[int(rng.integers(4, len(packed)))] = int(rng.integers(256))
    try:
        outcome = str(decode_brush(bytes(packed), 12, 17).shape)
    except HfgdError as error:
        outcome = str(error)
    assert outcome == "(12, 17)" or "'rle'" in outcome


def task_of(result, **more):
    frame = {"original_width": 40, "original_height": 24, "image_rotation": 90}
    records = [{"id": f"r{i}"} | frame | record for i, record in enumerate(result)]
    task = {"id": 1, "data": {"image": "https://example.org/a%20b.png?x=1"}}
    return task | {"annotations": [{"result": records}]} | more


@pytest.mark.situation(
    "labelstudio",
    "turned rectangles and ellipses",
    "read",
)
def test_label_studio_rectangles_turn_about_their_corner_and_ellipses_about_their_centre(tmp_path):
    """A turned rectangle against corners by hand; image_rotation changes nothing."""
    save(tmp_path / "a/a b.png", np.zeros((24, 40, 3)))
    turned = {"x": 50, "y": 25, "width": 25, "height": 12.5, "rotation": 90}
    round_one = {"x": 20, "y": 50, "radiusX": 10, "radiusY": 25, "rotation": 0}
    result = [
        {"type": "rectanglelabels", "value": turned | {"rectanglelabels": ["box"]}},
        {"type": "ellipselabels", "value": round_one | {"ellipselabels": ["disc"]}},
        {"type": "choices", "value": {"choices": ["good"]}},
        {"type": "relation", "from_id": "r0", "to_id": "r1"},
    ]
    dump(tmp_path / "a/tasks.json", [task_of(result), task_of([], annotations=[])])
    report = import_data(tmp_path / "a", tmp_path / "out", Rules(unlabelled="background"))
    label, names = labels(tmp_path / "out")
    expected = np.zeros((24, 40))
    expected[6:16, 17:20] = names.index("box")  # 10 × 3 pixels from (20, 6), turned clockwise
    for y in range(24):
        for x in range(40):
            if ((x + 0.5 - 8) / 4) ** 2 + ((y + 0.5 - 12) / 6) ** 2 <= 1:
                expected[y, x] = names.index("disc")
    assert np.array_equal(label["a b"], expected)
    assert "1 region of the type 'choices', which is no area, left out" in report.notes
    assert "1 task without an annotation left out" in report.notes


@pytest.mark.situation(
    "labelstudio",
    "region and label in two records",
    "read",
)
def test_label_studio_region_and_label_may_be_two_records(tmp_path):
    save(tmp_path / "a/a b.png", np.zeros((24, 40, 3)))
    mask = random_mask(np.random.default_rng(0), 24, 40)
    packed = {"format": "rle", "rle": brush(mask)}
    result = [
        {"id": "same", "type": "brush", "value": packed},
        {"id": "same", "type": "labels", "value": packed | {"labels": ["road"]}},
    ]
    dump(tmp_path / "a/tasks.json", [task_of(result)])
    report = import_data(tmp_path / "a", tmp_path / "out", Rules(unlabelled="background"))
    assert np.array_equal(labels(tmp_path / "out")[0]["a b"], mask)
    assert report.shapes.total() == 1


# ---- the others -----------------------------------------------------------------------------


def test_kaggle_counts_down_the_columns_from_one():
    mask = parse_runs("1 2 6 1", "here").mask(3, 4)
    assert mask.T.ravel().tolist() == [1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    for bad in [((0, 1),), ((12, 2),), ((3, 0),)]:
        with pytest.raises(HfgdError, match="is not within the 12 pixels"):
            Spans(bad).mask(3, 4)


@pytest.mark.situation(
    "kaggle",
    "the columns of Severstal, Airbus, TGS salt, clouds",
    "read",
)
@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("ImageId_ClassId,EncodedPixels", ["shot0.png_1,1 24", "shot0.png_2,"]),
        ("Image_Label,EncodedPixels", ["shot0.png_1,1 24", "shot0.png_2,"]),
        ("id,rle,class", ["shot0,1 24,1", "shot0,-1,2"]),
    ],
)
def test_kaggle_columns_of_several_competitions(tmp_path, header, rows):
    root = tmp_path / "source"
    BUILDERS["kaggle"](root, pictures(2))
    (root / "masks.csv").write_text("\n".join([header, *rows]) + "\n")
    (root / "sample_submission.csv").write_text(f"{header}\n")
    report = import_data(root, tmp_path / "out", Rules(train=1))
    label, names = labels(tmp_path / "out")
    assert names == ["background", "class 1", "class 2"]
    assert label["shot0"][:, 0].tolist() == [1] * 24
    assert not label["shot0"][:, 1:].any()
    assert "1 image that the csv does not name left out" in report.notes


@pytest.mark.situation(
    "labelme",
    "circles; points and lines",
    "read; left out, counted",
)
def test_labelme_circles_and_shapes_without_area(tmp_path):
    shapes = [
        {"label": "disc", "points": [[20, 12], [23, 16]], "shape_type": "circle"},
        {"label": "__ignore__", "points": [[0, 0], [3, 3]], "shape_type": "rectangle"},
        {"label": "_background_", "points": [[30, 0], [32, 2]], "shape_type": "rectangle"},
        {"label": "disc", "points": [[1, 1], [5, 5]], "shape_type": "line"},
        {"label": "disc", "points": [[0, 20], [2, 20], [2, 24], [0, 24]], "shape_type": None},
    ]
    record = {"shapes": shapes, "imagePath": "..\\pics\\x.png", "imageData": None}
    dump(tmp_path / "a/json/x.json", record)
    save(tmp_path / "a/pics/x.png", np.zeros((24, 40, 3)))
    save(tmp_path / "a/pics/later.png", np.zeros((24, 40, 3)))
    report = import_data(tmp_path / "a", tmp_path / "out", Rules(train=1))
    label, names = labels(tmp_path / "out")
    expected = np.zeros((24, 40))
    for y in range(24):
        for x in range(40):
            if math.hypot(x + 0.5 - 20, y + 0.5 - 12) <= 5:
                expected[y, x] = 1
    expected[20:24, 0:2] = 1
    expected[0:3, 0:3] = 255
    assert names == ["background", "disc"]
    assert np.array_equal(label["x"], expected)
    notes = " ".join(report.notes)
    assert "1 shape without an area left out (line 1)" in notes
    assert "1 image without a JSON file left out" in notes


@pytest.mark.situation(
    "labelme",
    "images inside the JSON",
    "read",
)
def test_labelme_embedded_images_are_written_out(tmp_path):
    root = tmp_path / "source"
    BUILDERS["labelme"](root, pictures())
    path = root / "train/shot1.json"
    data = (root / "train/shot1.png").read_bytes()
    record = json.loads(path.read_text()) | {"imageData": base64.b64encode(data).decode()}
    dump(path, record)
    (root / "train/shot1.png").unlink()
    import_data(root, tmp_path / "out")
    assert (tmp_path / "out/images/train/shot1.png").read_bytes() == data


@pytest.mark.situation(
    "supervisely",
    "bitmaps of every mode",
    "read",
)
@pytest.mark.parametrize("mode", ["L", "1", "RGBA", "P"])
def test_supervisely_bitmaps_in_every_mode(mode):
    mask = random_mask(np.random.default_rng(1), 9, 14)
    grey = (mask * 255).astype(np.uint8)
    if mode == "RGBA":
        data = png(np.dstack([np.full((9, 14, 3), 7, np.uint8), grey]))
    elif mode == "P":  # as the SDK writes it: two colours, the first of them transparent
        picture = Image.fromarray(mask.astype(np.uint8))
        picture.putpalette([0, 0, 0, 255, 255, 255])
        packed = io.BytesIO()
        picture.save(packed, "PNG", transparency=0)
        data = packed.getvalue()
    else:
        data = png(grey, mode)
    text = base64.b64encode(zlib.compress(data)).decode()
    assert np.array_equal(decode_bitmap(text, *mask.shape), mask)


@pytest.mark.situation(
    "supervisely",
    "polygons with holes",
    "read",
)
def test_supervisely_polygons_have_holes(tmp_path):
    root = tmp_path / "source"
    BUILDERS["supervisely"](root, pictures(2))
    path = root / "train/ann/shot0.png.json"
    outer = [[2, 2], [12, 2], [12, 12], [2, 12]]
    hole = [[4, 4], [8, 4], [8, 8], [4, 8]]
    thing = {"classTitle": "car", "geometryType": "polygon"}
    thing |= {"points": {"exterior": outer, "interior": [hole]}}
    flat = {"classTitle": "car", "geometryType": "point", "points": {"exterior": [[1, 1]]}}
    record = json.loads(path.read_text()) | {"objects": [thing, flat]}
    dump(path, record)
    import_data(root, tmp_path / "out")
    label = labels(tmp_path / "out")[0]["shot0"]
    assert label[5, 5] == 255
    assert label[3, 3] == label[10, 10] == 0
    assert (label == 0).sum() == 10 * 10 - 4 * 4  # from centre to centre


@pytest.mark.situation(
    "ultralytics",
    "masks with a label mapping",
    "read",
)
def test_ultralytics_masks_and_label_mapping(tmp_path):
    root = tmp_path / "source"
    BUILDERS["ultralytics"](root, pictures())
    rng = np.random.default_rng(3)
    raws = {}
    for shot in pictures():
        raws[shot.name] = rng.choice([0, 7, 8, 200, 255], SIZE)
        save(root / "masks" / shot.split / f"{shot.name}.png", raws[shot.name])
    spec = yaml.safe_load((root / "set.yaml").read_text())
    spec |= {"masks_dir": "masks", "label_mapping": {-1: "ignore_label", 0: "ignore_label"}}
    spec["label_mapping"] |= {7: 0, 8: 2, 200: 1}
    (root / "set.yaml").write_text(yaml.safe_dump(spec))
    report = import_data(root, tmp_path / "out")
    found, names = labels(tmp_path / "out")
    assert names == ["car", "road", "tree"]
    assert report.unlabelled == "ignore"
    for name, raw in raws.items():
        wanted = np.select([raw == 7, raw == 8, raw == 200], [0, 2, 1], 255)
        assert np.array_equal(found[name], wanted)


@pytest.mark.situation(
    "roboflow",
    "paths one folder too high",
    "read",
)
def test_roboflow_writes_paths_one_folder_too_high(tmp_path):
    """data.yaml of a YOLO export: '../train/images' beside the folder train."""
    root = tmp_path / "source"
    for shot in pictures():
        folder = root / {"train": "train", "val": "valid"}[shot.split]
        save(folder / "images" / f"{shot.name}.png", shot.pixels)
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / f"{shot.name}.txt").write_text("1 0 0 0.5 0 0.5 1 0 1\n")
    spec = {"train": "../train/images", "val": "../valid/images", "test": "../test/images"}
    (root / "data.yaml").write_text(yaml.safe_dump(spec | {"nc": 2, "names": ["a", "b"]}))
    report = import_data(root, tmp_path / "out")
    assert report.splits == {"train": 3, "val": 1}
    label, names = labels(tmp_path / "out")
    assert names == ["background", "a", "b"]
    assert (label["shot0"][:, :20] == 2).all()
    assert not label["shot0"][:, 20:].any()


@pytest.mark.situation(
    "voc",
    "VOC's palette, colours, void",
    "read",
)
def test_voc_itself_has_twenty_classes_void_and_colours(tmp_path):
    root = tmp_path / "source"
    BUILDERS["voc"](root, pictures())
    (root / "class_names.txt").unlink()
    picture = Image.fromarray(np.array([[0, 1, 20, 255] * 10] * 24, dtype=np.uint8))
    picture.putpalette(
        [v for i in range(256) for v in ((0, 64, 128) if i == 20 else (128 * (i == 1), 0, 0))]
    )
    palette = picture.getpalette()
    palette[765:] = [224, 224, 192]
    picture.putpalette(palette)
    for path in (root / "SegmentationClass").iterdir():
        picture.convert("RGB").save(path)  # in VOC's colours
    report = import_data(root, tmp_path / "out")
    label, names = labels(tmp_path / "out")
    assert names[:2] == ["background", "aeroplane"]
    assert len(names) == 21
    assert label["shot0"][0, :4].tolist() == [0, 1, 20, 255]
    assert report.classes.palette[1] == (128, 0, 0)


@pytest.mark.situation(
    "cvat",
    "masks of one channel",
    "read: places in labelmap.txt",
)
def test_cvat_of_one_channel_counts_places_in_the_labelmap(tmp_path):
    root = tmp_path / "source"
    BUILDERS["cvat"](root, pictures())
    for shot in pictures():  # background is first in the list
        save(root / "SegmentationClass" / f"{shot.name}.png", shot.truth() + 1)
    import_data(root, tmp_path / "grey")
    BUILDERS["cvat"](root, pictures())
    import_data(root, tmp_path / "colour")
    for name, label in labels(tmp_path / "colour")[0].items():
        assert np.array_equal(labels(tmp_path / "grey")[0][name], label)


@pytest.mark.situation(
    "cvat",
    "subsets that are no split",
    "split by --split",
)
def test_cvat_subsets_that_are_no_split_are_drawn_and_other_masks_left_out(tmp_path):
    root = tmp_path / "source"
    BUILDERS["cvat"](root, pictures(6))
    for path in (root / "ImageSets/Segmentation").iterdir():
        path.unlink()
    (root / "ImageSets/Segmentation/default.txt").write_text("shot0\nshot1\nshot2\nshot3\nshot4\n")
    report = import_data(root, tmp_path / "out")
    assert report.splits == {"train": 4, "val": 1}
    assert report.notes == ["1 label image in no list left out"]


def test_names_of_classes_with_colons_and_a_class_called_ignore(tmp_path):
    text = "a:b:1,2,3::\nignore:9,9,9:x,y:z\n# comment\n"
    assert parse_labelmap(text, "here") == {"a:b": (1, 2, 3), "ignore": (9, 9, 9)}
    root = tmp_path / "source"
    shots = [s._replace(blocks=[b._replace(name="road") for b in s.blocks]) for s in pictures()]
    BUILDERS["coco"](root, shots)
    for path in (root / "annotations").iterdir():
        path.write_text(path.read_text().replace('"tree"', '"ignore"'))
    report = import_data(root, tmp_path / "out")
    assert report.classes.names == ("car", "road")
    assert any("'ignore' counts nowhere" in note for note in report.notes)


def test_regions_by_loops():
    ellipse = Ellipse(10.3, 7.1, 6, 3, angle=30).mask(16, 22)
    for y in range(16):
        for x in range(22):
            dx, dy = x + 0.5 - 10.3, y + 0.5 - 7.1
            turn = -math.radians(30)
            along = dx * math.cos(turn) - dy * math.sin(turn)
            beside = dx * math.sin(turn) + dy * math.cos(turn)
            assert ellipse[y, x] == ((along / 6) ** 2 + (beside / 3) ** 2 <= 1)
    assert not Ellipse(5, 5, 0, 3).mask(9, 9).any()
    patch = random_mask(np.random.default_rng(0), 4, 5)
    clipped = Patch(lambda *_: patch, -2, 7, clip=True).mask(9, 9)
    expected = np.zeros((9, 9), dtype=bool)
    expected[7:9, 0:3] = patch[:2, 2:]
    assert np.array_equal(clipped, expected)
    assert box(5, 4, 2, 1).mask(6, 6).sum() == 9


def test_paths_and_splits():
    assert clean("C:\\data\\.\\a\\..\\x.jpg") == "data/x.jpg"
    assert clean("../../a//x.jpg") == "a/x.jpg"
    assert without_suffix("train2017/a/x.tar.jpg", "train") == "a/x.tar"
    assert without_suffix("train2017/a/x.jpg") == "train2017/a/x"
    assert split_of_folders("set/valid/sub/x.jpg") == "val"
    assert split_of_folders("trains/x.jpg") is None
    assert split_of_file("annotations/instances_train2017.json") == "train"
    assert split_of_file("data/validation-00000-of-00002.parquet") == "val"
    assert split_of_file("train/_annotations.coco.json") == "train"
    assert split_of_file("trainval.json") is None


# ---- killed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["coco", "labelme", "parquet"])
@pytest.mark.parametrize("writes", [1, 4, 9, 16, 25])
def test_killed_within_a_write_and_repeated_it_is_the_same(tmp_path, name, writes):
    """SIGKILL in the middle of a file, in front of its place, and before data.yaml."""
    root = tmp_path / "source"
    root.mkdir()
    BUILDERS[name](root, pictures(12))
    import_data(root, tmp_path / "whole")
    status = killed_child(lambda: import_data(root, tmp_path / "out"), 0, writes)
    assert status == 9
    assert not (tmp_path / "out/data.yaml").exists()
    import_data(root, tmp_path / "out")
    whole = digests(tmp_path / "whole")
    assert len(whole) == 25
    assert digests(tmp_path / "out") == whole
