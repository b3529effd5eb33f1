"""Annotations as people have them: real tools' exports, and the situations that bug reports tell of."""

import csv
import json
import unicodedata
import zipfile

import numpy as np
import pytest

from hfgd.data.check import check_folder
from hfgd.data.folder import FolderData, FolderDataset
from hfgd.data.importing.import_data import import_data
from hfgd.data.importing.write_import import Rules
from hfgd.errors import HfgdError
from hfgd.predict import find_images
from miniatures import BUILDERS, SIZE, dump, pictures, save
from test_formats import expected, labels

mask_api = pytest.importorskip("pycocotools.mask")
situation = pytest.mark.situation
TALL, WIDE = (90, 40), (40, 90)


def blobs(size, seed=0):
    """A few discs, as people annotate: compact, and not symmetric."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    mask = np.zeros(size, dtype=bool)
    for _ in range(3):
        y, x, r = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(6, 12)
        mask |= (rows - y) ** 2 + 2 * (columns - x) ** 2 < r * r
    return mask


def runs(mask, order):
    """'start length …' by going through the pixels one by one."""
    flat, found, start = mask.ravel(order={"columns": "F", "rows": "C"}[order]), [], None
    for i, inside in enumerate([*flat.tolist(), False]):
        if inside and start is None:
            start = i
        elif not inside and start is not None:
            found += [start + 1, i - start]
            start = None
    return " ".join(map(str, found))


def kaggle(root, header, masks, order, size):
    rows = [header]
    for i, mask in enumerate(masks):
        save(root / f"shot{i}.jpg", np.random.default_rng(i).integers(0, 255, (*size, 3), np.uint8))
        rows.append([f"shot{i}.jpg", runs(mask, order)])
    with (root / "masks.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


# ---- Kaggle -------------------------------------------------------------------------------------


@situation(
    "kaggle",
    "run lengths along the rows (Carvana) or down the columns",
    "read: the masks show which",
)
@pytest.mark.parametrize("order", ["columns", "rows"])
@pytest.mark.parametrize("size", [TALL, WIDE])
@pytest.mark.parametrize(
    "header", [["img", "rle_mask"], ["ImageId", "EncodedPixels"], ["id", "segmentation"]]
)
def test_the_masks_show_how_run_lengths_count(tmp_path, order, size, header):
    masks = [blobs(size, seed) for seed in range(4)]
    root = kaggle(tmp_path / "a", header, masks, order, size)
    report = import_data(root, tmp_path / "out")
    found, names = labels(tmp_path / "out")
    for i, mask in enumerate(masks):
        assert np.array_equal(found[f"shot{i}"] == names.index("foreground"), mask)
    assert any(f"read {'down' if order == 'columns' else 'along'} the" in n for n in report.notes)


@situation(
    "kaggle",
    "square images, where the masks do not show it",
    "read as the header's competition counts",
)
@pytest.mark.parametrize(
    ("header", "order"),
    [
        (["img", "rle_mask"], "rows"),  # Carvana
        (["id", "rle_mask"], "columns"),  # TGS salt
        (["ImageId", "EncodedPixels"], "columns"),  # Severstal, Airbus
        (["id", "annotation"], "rows"),  # Sartorius
        (["id", "segmentation"], "rows"),  # UW-Madison
    ],
)
def test_square_images_are_read_as_the_header_says(tmp_path, header, order):
    masks = [blobs((50, 50), seed) for seed in range(3)]
    import_data(kaggle(tmp_path / "a", header, masks, order, (50, 50)), tmp_path / "out")
    found, names = labels(tmp_path / "out")
    for i, mask in enumerate(masks):
        assert np.array_equal(found[f"shot{i}"] == names.index("foreground"), mask)


@situation(
    "kaggle",
    "neither masks nor header show how run lengths count",
    "refused; `--rle-order` says it",
)
def test_a_tie_is_refused_and_the_option_decides(tmp_path, run):
    masks = [blobs((50, 50), seed) for seed in range(3)]
    root = kaggle(tmp_path / "a", ["image", "encoding"], masks, "rows", (50, 50))
    with pytest.raises(HfgdError, match=r"--rle-order columns or --rle-order rows"):
        import_data(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    code, _, err = run("data", "import", root, "--out", tmp_path / "out", "--rle-order", "rows")
    assert code == 0, err
    found, names = labels(tmp_path / "out")
    assert np.array_equal(found["shot0"] == names.index("foreground"), masks[0])


@situation("kaggle", "relative run lengths (SIIM-ACR)", "refused with the reason")
def test_relative_run_lengths_are_refused(tmp_path):
    root = kaggle(tmp_path / "a", ["ImageId", "EncodedPixels"], [blobs(TALL)], "columns", TALL)
    text = (root / "masks.csv").read_text().split(",", 2)
    numbers = text[2].split()
    relative = [numbers[0], numbers[1]]
    for i in range(2, len(numbers), 2):
        relative += [
            str(int(numbers[i]) - int(numbers[i - 2]) - int(numbers[i - 1])),
            numbers[i + 1],
        ]
    (root / "masks.csv").write_text(f"{text[0]},{text[1]},{' '.join(relative)}\n")
    with pytest.raises(HfgdError, match=r"masks\.csv': line 2: .* relative run lengths"):
        import_data(root, tmp_path / "out")


# ---- CVAT ---------------------------------------------------------------------------------------


@pytest.fixture
def frames(tmp_path):
    """CVAT's masks with a frame that is listed and has no mask."""
    root = tmp_path / "source"
    BUILDERS["cvat"](root, pictures())
    (root / "SegmentationClass/shot1.png").unlink()
    (root / "SegmentationObject/shot1.png").unlink()
    return root


@situation(
    "cvat",
    "a listed frame without a mask",
    "read as background; `--unlabelled ignore` leaves it out",
)
def test_a_frame_without_a_mask_is_background(frames, tmp_path):
    report = import_data(frames, tmp_path / "out")
    found, names = labels(tmp_path / "out")
    assert (found["shot1"] == names.index("background")).all()
    assert "1 image without any annotation: all 'background'" in " ".join(report.notes)
    for shot in pictures():
        if shot.name != "shot1":
            assert np.array_equal(found[shot.name], expected(shot, names, "background"))


def test_a_frame_without_a_mask_is_left_out_where_nothing_is_a_class(frames, tmp_path):
    report = import_data(frames, tmp_path / "out", Rules(unlabelled="ignore"))
    found, _ = labels(tmp_path / "out")
    assert set(found) == {"shot0", "shot2", "shot3"}
    assert "1 image without any annotation left out" in " ".join(report.notes)


@situation(
    "cvat, voc", "a list of a split without a single mask (VOC's test.txt)", "left out, and said"
)
@pytest.mark.parametrize("name", ["cvat", "voc"])
def test_a_list_without_masks_is_left_out(tmp_path, name):
    root = tmp_path / "source"
    BUILDERS[name](root, pictures())
    for i in (7, 8):
        save(root / "JPEGImages" / f"test{i}.png", np.full((*SIZE, 3), i, np.uint8))
    (root / "ImageSets/Segmentation/test.txt").write_text("test7\ntest8\n")
    report = import_data(root, tmp_path / "out")
    assert set(report.splits) == {"train", "val"}
    assert "test.txt' left out (2 images): none has a label image" in " ".join(report.notes)


@situation("cvat_images", "CVAT for images 1.1: polygons, boxes, ellipses, masks, z_order", "read")
def test_cvat_for_images_by_pycocotools_and_loops(tmp_path):
    root = tmp_path / "source"
    save(root / "images/x.png", np.zeros((*SIZE, 3), np.uint8))
    (root / "annotations.xml").write_text(
        """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><job><labels>
<label><name>a</name><color>#102030</color></label><label><name>b</name></label></labels></job></meta>
<image id="0" name="x.png" width="40" height="24">
<mask label="b" source="manual" rle="1, 3, 2" left="30" top="2" width="3" height="2" z_order="5"/>
<polygon label="b" points="1.0,1.0;20.5,1.0;20.5,12.0;1.0,12.0" z_order="1"/>
<box label="a" xtl="5" ytl="5" xbr="15" ybr="9" z_order="2"/>
<box label="a" xtl="2" ytl="14" xbr="12" ybr="20" rotation="90.0" z_order="2"/>
<ellipse label="a" cx="30" cy="15" rx="6" ry="3" rotation="30" z_order="0"/>
<polyline label="a" points="0,0;3,3" z_order="0"/><points label="a" points="1,1" z_order="0"/>
<tag label="a"/></image></annotations>"""
    )
    report = import_data(root, tmp_path / "out", Rules(unlabelled="background", train=1))
    assert report.format == "cvat_images"
    found, names = labels(tmp_path / "out")
    a, b = names.index("a"), names.index("b")

    def polygon(*points):
        return mask_api.decode(mask_api.merge(mask_api.frPyObjects([list(points)], *SIZE))) > 0

    truth = np.full(SIZE, names.index("background"))
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            across, down = x + 0.5 - 30, y + 0.5 - 15
            along, beside = across * 0.75**0.5 + down / 2, down * 0.75**0.5 - across / 2
            if (along / 6) ** 2 + (beside / 3) ** 2 <= 1:
                truth[y, x] = a
    truth[polygon(1, 1, 20.5, 1, 20.5, 12, 1, 12)] = b
    truth[polygon(5, 5, 15, 5, 15, 9, 5, 9)] = a
    truth[polygon(10, 12, 10, 22, 4, 22, 4, 12)] = a  # turned by 90° about its centre (7, 17)
    truth[2, 31:33] = truth[3, 30] = b  # 1 off, 3 on along the rows of 3 by 2, 2 off
    assert np.array_equal(found["x"], truth)
    said = " ".join(report.notes)
    for kind in ("polyline", "points", "tag"):
        assert f"1 shape of the kind '{kind}', which has no area, left out" in said


@situation("cvat_images", "an image without shapes", "left out; `--unlabelled background` keeps it")
def test_an_image_without_shapes_in_cvats_xml(tmp_path):
    root = tmp_path / "source"
    BUILDERS["cvat_images"](root, pictures())
    text = (root / "annotations.xml").read_text()
    first = text.index('<image id="1"'), text.index('<image id="2"')
    bare = '<image id="1" name="shot1.png" subset="train" width="40" height="24"></image>'
    (root / "annotations.xml").write_text(text[: first[0]] + bare + text[first[1] :])
    report = import_data(root, tmp_path / "out")
    assert sum(report.splits.values()) == 3
    assert "1 image without any annotation left out" in " ".join(report.notes)
    report = import_data(root, tmp_path / "out2", Rules(unlabelled="background"))
    assert sum(report.splits.values()) == 4


@situation("cvat_images", "CVAT for video (tracks)", "refused, with what to export instead")
def test_cvat_for_video_is_named(tmp_path):
    root = tmp_path / "source"
    save(root / "frame_000000.png", np.zeros((*SIZE, 3), np.uint8))
    (root / "annotations.xml").write_text(
        "<annotations><version>1.1</version><meta/><track id='0' label='a'/></annotations>"
    )
    with pytest.raises(HfgdError, match=r"'CVAT for video'.* export 'CVAT for images 1\.1' or"):
        import_data(root, tmp_path / "out")


# ---- COCO ---------------------------------------------------------------------------------------


def coco(root, records, kinds=("a", "b")):
    save(root / "x.png", np.zeros((*SIZE, 3), np.uint8))
    image = {"id": 1, "file_name": "x.png", "height": SIZE[0], "width": SIZE[1]}
    categories = [{"id": i, "name": name} for i, name in enumerate(kinds, 1)]
    dump(root / "c.json", {"images": [image], "annotations": records, "categories": categories})
    return root


@situation("coco", "brush masks of CVAT, which all say iscrowd", "read in the file's order")
def test_brush_masks_keep_the_files_order(tmp_path):
    everything = {"size": list(SIZE), "counts": [0, SIZE[0] * SIZE[1]]}
    ring = [[0, 0, 10, 0, 10, 10, 0, 10]]
    records = [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": ring, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 2, "segmentation": everything, "iscrowd": 1},
        {"id": 3, "image_id": 1, "category_id": 1, "segmentation": [[20, 0, 30, 0, 30, 9, 20, 9]]},
    ]
    report = import_data(coco(tmp_path / "a", records), tmp_path / "out")
    found, _ = labels(tmp_path / "out")
    truth = np.ones(SIZE)
    truth[:9, 20:30] = 0
    assert np.array_equal(found["x"], truth)
    assert "1 annotation with a mask say iscrowd, as CVAT's brush" in " ".join(report.notes)


@situation("coco", "crowds, where other run lengths are none", "read; below all other shapes")
def test_a_crowd_beside_masks_lies_below(tmp_path):
    part = np.zeros(SIZE, np.uint8)
    part[:8, :8] = 1
    packed = mask_api.encode(np.asfortranarray(part))
    records = [
        {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0,
         "segmentation": {"size": list(SIZE), "counts": packed["counts"].decode()}},
        {"id": 2, "image_id": 1, "category_id": 2, "iscrowd": 1,
         "segmentation": {"size": list(SIZE), "counts": [0, SIZE[0] * SIZE[1]]}},
    ]  # fmt: skip
    import_data(coco(tmp_path / "a", records), tmp_path / "out")
    found, _ = labels(tmp_path / "out")
    assert np.array_equal(found["x"] == 0, part > 0)


@situation("every format", "no shape in the whole file", "refused")
def test_an_annotation_file_without_shapes_is_refused(tmp_path):
    with pytest.raises(HfgdError, match=r"has 1 image and no annotated shape or mask"):
        import_data(coco(tmp_path / "a", []), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- Label Studio -------------------------------------------------------------------------------


@situation(
    "labelstudio", "key points, relations, choices, texts, regions of videos", "left out, counted"
)
def test_what_is_no_area_is_left_out_and_counted(tmp_path):
    root = tmp_path / "source"
    BUILDERS["labelstudio"](root, pictures())
    file = root / "project-1.json"
    tasks = json.loads(file.read_text())
    plain = import_data(root, tmp_path / "plain")
    point = {"x": 10.0, "y": 10.0, "width": 0.5, "keypointlabels": ["nose"]}
    tasks[0]["annotations"][1]["result"] += [
        {
            "id": "k1",
            "type": "keypointlabels",
            "original_width": 40,
            "original_height": 24,
            "value": point,
        },
        {"id": "t1", "type": "textarea", "value": {"text": ["a remark"]}},
        {
            "id": "l1",
            "type": "labels",
            "value": {"start": 3, "end": 9, "text": "x", "labels": ["ORG"]},
        },
        {"type": "relation", "from_id": "k1", "to_id": "t1", "direction": "right"},
    ]
    video = {"type": "videorectangle", "value": {"sequence": [], "labels": ["car"]}, "id": "v"}
    tasks.append(
        {"id": 99, "data": {"video": "/x/clip.mp4"}, "annotations": [{"id": 1, "result": [video]}]}
    )
    file.write_text(json.dumps(tasks))
    report = import_data(root, tmp_path / "out")
    first, second = labels(tmp_path / "plain")[0], labels(tmp_path / "out")[0]
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    said = " ".join(set(report.notes) - set(plain.notes))
    for kind in ("keypointlabels", "textarea", "labels"):
        assert f"1 region of the type '{kind}', which is no area, left out" in said
    assert "1 task of a text, sound or video left out" in said


# ---- names --------------------------------------------------------------------------------------


@situation("every format, data folders", "names in Unicode's two forms (macOS)", "paired")
@pytest.mark.parametrize(("image", "label"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_both_forms_of_unicode_are_paired(tmp_path, image, label):
    name = "Straße_é_ü"
    for split in ("train", "val"):
        a, b = (unicodedata.normalize(form, name) for form in (image, label))
        save(tmp_path / f"d/images/{split}/{a}.png", np.zeros((8, 9, 3), np.uint8))
        save(tmp_path / f"d/labels/{split}/{b}.png", np.eye(8, 9, dtype=np.uint8))
    (tmp_path / "d/data.yaml").write_text("classes: [a, b]\n")
    data = FolderData(tmp_path / "d")
    assert [pair.name for pair in FolderDataset(data, "val").pairs] == [
        unicodedata.normalize("NFC", name)
    ]
    assert check_folder(data).ok
    root = coco(
        tmp_path / "a",
        [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 5, 0, 5, 5]]}],
    )
    (root / "x.png").rename(root / f"{unicodedata.normalize(image, name)}.png")
    text = json.loads((root / "c.json").read_text())
    text["images"][0]["file_name"] = unicodedata.normalize(label, name) + ".png"
    dump(root / "c.json", text)
    import_data(root, tmp_path / "out")


def test_two_names_that_look_the_same_are_told_apart(tmp_path):
    for form in ("NFC", "NFD"):
        save(
            tmp_path / f"d/images/train/{unicodedata.normalize(form, 'é')}.png",
            np.zeros((4, 4, 3), np.uint8),
        )
    (tmp_path / "d/data.yaml").write_text("classes: [a, b]\n")
    with pytest.raises(
        HfgdError, match=r"\\xe9\.png' and .*e\\u0301\.png'|e\\u0301\.png' and .*\\xe9\.png'"
    ):
        FolderDataset(FolderData(tmp_path / "d"), "train")


@situation(
    "every format, data folders",
    "Thumbs.db, .DS_Store, desktop.ini, @eaDir, __MACOSX, ._names",
    "passed over",
)
def test_leftovers_of_operating_systems_are_nothing(folder, tmp_path):
    before = check_folder(FolderData(folder))
    for kind in ("images", "labels"):
        place = folder / kind / "train"
        for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._train0.png"):
            (place / name).write_bytes(b"\0junk")
        save(place / "@eaDir/train0.png/SYNOPHOTO_THUMB_XL.jpg", np.zeros((4, 4, 3), np.uint8))
        save(place / "__MACOSX/train0.png", np.zeros((4, 4, 3), np.uint8))
    after = check_folder(FolderData(folder))
    assert before.ok
    assert [(s.split, s.pairs, s.problems) for s in after.splits] == [
        (s.split, s.pairs, []) for s in before.splits
    ]
    assert len(find_images([folder / "images/train"])) == 3
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(folder / "images/train/train0.png", "train0.png")
        archive.write(folder / "images/train/train0.png", "__MACOSX/train0.png")
        archive.write(folder / "images/train/train0.png", "@eaDir/train0.png/thumb.png")
    assert len(find_images([tmp_path / "a.zip"])) == 1


# ---- plurals ------------------------------------------------------------------------------------


def test_one_image_is_no_group_of_all_images(tmp_path, run):
    for kind, array in (
        ("images", np.zeros((8, 8, 3), np.uint8)),
        ("labels", np.eye(8, dtype=np.uint8)),
    ):
        save(tmp_path / f"d/{kind}/train/x.png", array)
    (tmp_path / "d/data.yaml").write_text("classes: [a, b]\n")
    code, _, err = run("data", "split", tmp_path / "d", "--by", ".+", "--out", tmp_path / "out")
    assert code == 2
    assert "puts the only image into one group, 'x'" in err
    assert "1 images" not in err


# ---- merged classes -----------------------------------------------------------------------------


@situation("data.yaml", "`label_map` merges several values into one class, or drops one", "read")
def test_classes_are_merged_and_dropped_by_label_map(tmp_path):
    values = np.arange(5, dtype=np.uint8).repeat(4).reshape(4, 5, order="F")
    save(tmp_path / "d/images/train/x.png", np.zeros((4, 5, 3), np.uint8))
    save(tmp_path / "d/labels/train/x.png", values)
    (tmp_path / "d/data.yaml").write_text(
        "classes: [road, vehicle]\nlabel_map: {0: road, 1: vehicle, 2: vehicle, 3: vehicle, 4: ignore}\n"
    )
    label = FolderDataset(FolderData(tmp_path / "d"), "train")[0].label.numpy()
    assert np.array_equal(label, np.array([0, 1, 1, 1, 255])[values])


@situation(
    "review",
    "classes that `label_map` merged",
    "COCO and csv lists; CVAT's and Label Studio's are refused with the reason",
)
def test_lists_for_tools_are_not_written_for_merged_classes(tmp_path):
    from hfgd.data.classes import ClassSet
    from hfgd.review.lists import write_lists
    from hfgd.review.pool import ReviewSet

    save(tmp_path / "d/images/train/x.png", np.zeros((4, 5, 3), np.uint8))
    save(tmp_path / "d/labels/train/x.png", np.eye(4, 5, dtype=np.uint8))
    (tmp_path / "d/data.yaml").write_text(
        "classes: [a, b]\nlabel_map: {0: a, 1: b, 2: b, 9: ignore, 8: ignore}\n"
    )
    pool = ReviewSet({"train": FolderDataset(FolderData(tmp_path / "d"), "train")})
    assert pool.merged == ["b"]
    classes = ClassSet.of(["a", "b"])
    assert write_lists([], classes, tmp_path / "lists") is None
    assert len(list((tmp_path / "lists").iterdir())) == 3
    assert "merges several values into b" in write_lists(
        [], classes, tmp_path / "lists", pool.merged
    )
    assert [p.name for p in (tmp_path / "lists").iterdir()] == ["coco.json"]
