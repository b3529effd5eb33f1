"""Variants of real exports: folders, delimiters, thin masks, names in both forms of Unicode."""

import csv
import unicodedata

import numpy as np
import pytest

from hfgd.data.check import check_folder
from hfgd.data.folder import FolderData
from hfgd.data.images import IMAGE_SUFFIXES
from hfgd.data.importing.import_data import import_data
from hfgd.data.importing.split import split_folder
from hfgd.data.importing.write_import import Rules
from hfgd.errors import HfgdError
from miniatures import BACKGROUND, BUILDERS, SIZE, dump, pictures, save
from test_field_annotations import blobs, kaggle, runs
from test_formats import EVERY, expected, labels

pytest.importorskip("pycocotools.mask")
situation = pytest.mark.situation
WIDE = (40, 90)


def foreground(out):
    found, names = labels(out)
    return {name: label == names.index("foreground") for name, label in found.items()}


# ---- Kaggle -------------------------------------------------------------------------------------


@situation("kaggle", "the same masks as pictures in a folder masks (TGS salt)", "passed over")
def test_masks_beside_the_images_are_no_images(tmp_path):
    masks, rows = [blobs((50, 50), seed) for seed in range(3)], [["id", "rle_mask"]]
    for i, mask in enumerate(masks):
        save(tmp_path / f"a/train/images/x{i}.png", np.zeros((50, 50, 3), np.uint8))
        save(tmp_path / f"a/train/masks/x{i}.png", mask * 255)
        rows.append([f"x{i}", runs(mask, "columns")])
    with (tmp_path / "a/train.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    report = import_data(tmp_path / "a", tmp_path / "out")
    found = foreground(tmp_path / "out")
    assert all(np.array_equal(found[f"x{i}"], mask) for i, mask in enumerate(masks))
    assert not any("does not name" in note for note in report.notes)


@situation("kaggle", "semicolons or tabs; cells 'None' and 'null'", "read")
@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_delimiters_and_words_for_nothing(tmp_path, mark):
    masks = [blobs(WIDE, seed) for seed in range(3)]
    root = kaggle(tmp_path / "a", ["ImageId", "EncodedPixels"], masks, "columns", WIDE)
    text = (root / "masks.csv").read_text()
    lines = [*text.replace(",", mark).splitlines(), f"shot3.jpg{mark}None", f"shot4.jpg{mark}null"]
    (root / "masks.csv").write_text("\n".join(lines) + "\n")
    for i in (3, 4):
        save(root / f"shot{i}.jpg", np.zeros((*WIDE, 3), np.uint8))
    import_data(root, tmp_path / "out")
    found = foreground(tmp_path / "out")
    for i, mask in enumerate([*masks, np.zeros(WIDE), np.zeros(WIDE)]):
        assert np.array_equal(found[f"shot{i}"], mask)


def lines(along):
    """Two thin lines: read the wrong way, each becomes a compact block with a shorter outline."""
    mask = np.zeros(WIDE, dtype=bool)
    mask[5, 3:80] = mask[20, 8:60] = True
    return mask if along == "rows" else mask.T


@situation(
    "kaggle",
    "long thin masks along the runs, whose outlines and runs contradict each other",
    "read as Carvana's header says; refused under other headers",
)
@pytest.mark.parametrize("order", ["rows", "columns"])
def test_thin_masks_along_the_runs_are_not_read_the_wrong_way(tmp_path, order):
    mask = lines(order)
    for number, header in enumerate((["ImageId", "EncodedPixels"], ["image", "encoding"])):
        root = kaggle(tmp_path / str(number), header, [mask] * 3, order, mask.shape)
        with pytest.raises(HfgdError, match=r"--rle-order columns or --rle-order rows"):
            import_data(root, tmp_path / "out")
    import_data(root, tmp_path / "out", Rules(rle_order=order))
    assert np.array_equal(foreground(tmp_path / "out")["shot0"], mask)
    if order == "rows":
        root = kaggle(tmp_path / "c", ["img", "rle_mask"], [mask] * 3, order, mask.shape)
        import_data(root, tmp_path / "carvana")
        assert np.array_equal(foreground(tmp_path / "carvana")["shot0"], mask)


def test_thin_masks_across_the_runs_are_read(tmp_path):
    for order, mask in (("columns", lines("rows")), ("rows", lines("columns"))):
        root = kaggle(tmp_path / order, ["image", "encoding"], [mask] * 3, order, mask.shape)
        import_data(root, tmp_path / f"out_{order}")
        assert np.array_equal(foreground(tmp_path / f"out_{order}")["shot0"], mask)


# ---- CVAT and Label Studio ----------------------------------------------------------------------


@situation(
    "cvat_images", "labels of skeletons and points; kinds of shapes unknown", "left out, counted"
)
def test_labels_without_areas_are_no_classes(tmp_path):
    root = tmp_path / "source"
    save(root / "images/x.png", np.zeros((*SIZE, 3), np.uint8))
    (root / "annotations.xml").write_text(
        """<annotations><version>1.1</version><meta><task><labels>
<label><name>a</name><type>any</type></label><label><name>body</name><type>skeleton</type></label>
<label><name>1</name><type>points</type><parent>body</parent></label>
<label><name>b</name><type>points</type></label></labels></task></meta>
<image id="0" name="x.png" width="40" height="24">
<skeleton label="body" z_order="0"><points label="1" points="1,1"/></skeleton><blob label="a"/>
<box label="a" xtl="5" ytl="5" xbr="15" ybr="9" z_order="0"/>
<box label="b" xtl="0" ytl="0" xbr="2" ybr="2" z_order="0"/></image></annotations>"""
    )
    report = import_data(root, tmp_path / "out")
    assert list(report.classes.names) == ["a", "b"]
    said = " ".join(report.notes)
    for kind in ("skeleton", "blob"):
        assert f"1 shape of the kind '{kind}', which has no area, left out" in said


@situation("labelstudio", "JSON-MIN", "refused, with what to export instead")
def test_json_min_is_named(tmp_path):
    save(tmp_path / "a/x.png", np.zeros((*SIZE, 3), np.uint8))
    ring = {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["a"]}
    task = {"image": "/data/upload/1/x.png", "id": 1, "label": [ring], "annotator": 1}
    dump(tmp_path / "a/project.json", [task | {"annotation_id": 1, "lead_time": 2.5}])
    with pytest.raises(HfgdError, match=r"project\.json' is Label Studio's JSON-MIN.*'JSON'"):
        import_data(tmp_path / "a", tmp_path / "out")


# ---- names --------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize(("written", "filed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_every_format_pairs_names_in_both_forms_of_unicode(tmp_path, name, written, filed):
    """Annotations in one form, files of images in the other; ids and polygons beside them too."""
    shots = [
        shot._replace(name=unicodedata.normalize(written, f"é ü {shot.name}"))
        for shot in pictures()
    ]
    (tmp_path / "source").mkdir()
    BUILDERS[name](tmp_path / "source", shots)
    for path in sorted((tmp_path / "source").rglob("*")):
        label = "_mask" in path.name or {"SegmentationClass", "ann"} & set(path.parts)
        if path.suffix in IMAGE_SUFFIXES and not label and "panoptic" not in str(path.parent):
            path.rename(path.with_name(unicodedata.normalize(filed, path.name)))
    import_data(tmp_path / "source", tmp_path / "out")
    found, names = labels(tmp_path / "out")
    composed = {unicodedata.normalize("NFC", key): label for key, label in found.items()}
    for shot in shots:
        label = composed[unicodedata.normalize("NFC", shot.name)]
        unlabelled = "background" if name in BACKGROUND else "ignore"
        assert np.array_equal(label, expected(shot, names, unlabelled))
    assert check_folder(FolderData(tmp_path / "out")).ok


def test_a_table_of_groups_pairs_names_in_both_forms_of_unicode(tmp_path):
    for i, stem in enumerate(("é1", "é2", "é3", "é4")):
        save(tmp_path / f"d/images/train/{stem}.png", np.full((8, 8, 3), i, np.uint8))
        save(tmp_path / f"d/labels/train/{stem}.png", np.eye(8, dtype=np.uint8))
    (tmp_path / "d/data.yaml").write_text("classes: [a, b]\n")
    rows = [f"{unicodedata.normalize('NFD', 'é')}{i}.png,group{i % 2}" for i in range(1, 5)]
    (tmp_path / "groups.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    outcome = split_folder(tmp_path / "d", str(tmp_path / "groups.csv"), tmp_path / "o")
    assert sum(outcome.images.values()) == 4
