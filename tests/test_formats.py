"""What annotation tools write, imported: every format against the same known masks."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hfgd.data.check import check_folder
from hfgd.data.classes import IGNORE
from hfgd.data.folder import FolderData, FolderDataset
from hfgd.data.formats import FORMATS
from hfgd.data.importing.import_data import import_data
from hfgd.data.importing.write_import import Rules
from hfgd.errors import HfgdError
from miniatures import BACKGROUND, BUILDERS, NAMES, NOBODY, SPLITLESS, Block, Picture, pictures

EVERY = pytest.mark.parametrize("name", BUILDERS)


def built(tmp_path, name, shots=None):
    root = tmp_path / "source"
    root.mkdir()
    BUILDERS[name](root, pictures() if shots is None else shots)
    return root


def labels(out):
    """Label values by the pictures' own names, over all splits, and the class names."""
    found = {}
    for path in sorted((out / "labels").rglob("*.png")):
        found[path.name.split("_png.rf.")[0].removesuffix(".png")] = np.array(Image.open(path))
    return found, yaml.safe_load((out / "data.yaml").read_text())["classes"]


def expected(shot, names, unlabelled):
    """Truth as label values of those class names."""
    nobody = IGNORE if unlabelled == "ignore" else names.index(unlabelled)
    table = [names.index(name) for name in NAMES]
    return np.array([*table, nobody])[shot.truth()]


def digests(out):
    """Content of every file of a folder; of links, what they lead to."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def test_every_format_has_a_miniature():
    assert BUILDERS.keys() == FORMATS.keys()


@EVERY
def test_masks_are_exact_and_the_folder_is_good(tmp_path, name):
    shots = pictures()
    report = import_data(built(tmp_path, name), tmp_path / "out")
    found, names = labels(tmp_path / "out")
    unlabelled = "background" if name in BACKGROUND else "ignore"
    assert report.format == name  # by auto
    assert report.unlabelled == unlabelled
    assert [n for n in names if n != "background"] == NAMES
    assert set(found) == {shot.name for shot in shots}
    for shot in shots:
        assert np.array_equal(found[shot.name], expected(shot, names, unlabelled)), shot.name
    assert report.unlabelled_pixels == sum((s.truth() == NOBODY).sum() for s in shots)
    assert check_folder(FolderData(tmp_path / "out")).ok
    if name in SPLITLESS:
        assert report.splits == {"train": 3, "val": 1}
    else:
        assert report.splits == {"train": 3, "val": 1}
        assert report.split_rule == "the source's own"
        val = {
            p.name.split("_png")[0].split(".")[0] for p in (tmp_path / "out/labels/val").iterdir()
        }
        assert val == {"shot3"}


@EVERY
def test_images_are_the_same_bytes(tmp_path, name):
    """Only Roboflow's are JPEG here: a copy must be the file itself, not its pixels again."""
    root = built(tmp_path, name)
    import_data(root, tmp_path / "out")
    copied = {
        hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "out/images").rglob("*.*")
    }
    assert len(copied) == 4
    if name == "parquet":
        for path in (tmp_path / "out/images").rglob("*.png"):
            shot = next(s for s in pictures() if s.name == path.stem)
            assert np.array_equal(np.array(Image.open(path)), shot.pixels)
    else:
        assert copied <= set(digests(root).values())


@EVERY
def test_repeating_writes_nothing_and_half_a_folder_is_completed(tmp_path, name):
    root, out = built(tmp_path, name), tmp_path / "out"
    assert import_data(root, out).written == 8
    whole = digests(out)
    again = import_data(root, out)
    assert (again.written, again.kept) == (0, 8)
    (out / "data.yaml").unlink()
    for path in [
        *sorted((out / "labels").rglob("*.png"))[1:3],
        next((out / "images").rglob("*.*")),
    ]:
        path.write_bytes(path.read_bytes()[:20])
    sorted((out / "images").rglob("*.*"))[-1].unlink()
    assert 0 < import_data(root, out).written < 8
    assert digests(out) == whole


@EVERY
def test_zipped_it_gives_the_same(tmp_path, name):
    root = built(tmp_path, name)
    import_data(root, tmp_path / "out")
    shutil.make_archive(str(tmp_path / "export"), "zip", root)
    import_data(tmp_path / "export.zip", tmp_path / "zipped")
    assert digests(tmp_path / "zipped") == digests(tmp_path / "out")


@EVERY
@pytest.mark.parametrize("unlabelled", ["ignore", "background", "tree"])
def test_unlabelled_pixels_become_what_is_asked_for(tmp_path, name, unlabelled):
    import_data(built(tmp_path, name), tmp_path / "out", Rules(unlabelled=unlabelled))
    found, names = labels(tmp_path / "out")
    assert names == (["background", *NAMES] if unlabelled == "background" else NAMES)
    for shot in pictures():
        assert np.array_equal(found[shot.name], expected(shot, names, unlabelled))


def test_a_class_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(HfgdError, match="did you mean 'tree'"):
        import_data(built(tmp_path, "labelme"), tmp_path / "out", Rules(unlabelled="trees"))


# ---- overlaps -------------------------------------------------------------------------------

SHAPES = ["coco", "labelme", "labelstudio", "ultralytics", "supervisely"]


def overlapping():
    """A large car, on it a small tree, on both a road between them in size; and a lone road."""
    blocks = [
        Block("car", 0, 0, 30, 20),
        Block("tree", 5, 5, 10, 10),
        Block("road", 4, 4, 20, 16),
        Block("road", 34, 0, 40, 4),
    ]
    shot = pictures(1)[0]
    return [Picture(f"shot{i}", s, shot.pixels, blocks) for i, s in enumerate(["train", "val"])]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("rule", "order"), [("last", [0, 1, 2, 3]), ("first", [3, 2, 1, 0]), ("smallest", [0, 2, 1, 3])]
)
def test_overlaps_are_resolved_by_the_rule_and_counted(tmp_path, name, rule, order):
    shots = overlapping()
    report = import_data(built(tmp_path, name, shots), tmp_path / "out", Rules(on_overlap=rule))
    found, names = labels(tmp_path / "out")
    truth, depth = np.full((24, 40), NOBODY), np.zeros((24, 40), dtype=int)
    for number in order:
        block = shots[0].blocks[number]
        truth[block.mask()] = NAMES.index(block.name)
        depth += block.mask()
    unlabelled = "background" if name in BACKGROUND else "ignore"
    nobody = IGNORE if unlabelled == "ignore" else names.index("background")
    wanted = np.array([*(names.index(n) for n in NAMES), nobody])[truth]
    assert np.array_equal(found["shot0"], wanted)
    assert report.contested == 2 * (depth > 1).sum()
    assert report.contested_images == 2
    assert report.shapes.total() == 8
    pairs = {"last": ("road", "car"), "first": ("car", "road"), "smallest": ("road", "car")}
    assert report.overlaps.most_common(1)[0][0] == pairs[rule]


# ---- splits, links, folders -----------------------------------------------------------------


def names_of(out, split):
    return {p.stem for p in (out / "labels" / split).iterdir()}


def test_the_split_depends_on_seed_and_share(tmp_path):
    root = built(tmp_path, "labelstudio", pictures(20))
    vals = []
    for number, rules in enumerate([Rules(), Rules(seed=1), Rules(train=0.5), Rules(train=1)]):
        report = import_data(root, tmp_path / str(number), rules)
        vals.append(report.splits)
    assert vals[0] == vals[1] == {"train": 16, "val": 4}
    assert vals[2] == {"train": 10, "val": 10}
    assert vals[3] == {"train": 20}
    assert names_of(tmp_path / "0", "val") != names_of(tmp_path / "1", "val")
    assert names_of(tmp_path / "0", "val") < names_of(tmp_path / "2", "val")


def test_a_source_with_train_alone_is_split(tmp_path):
    shots = [shot._replace(split="train") for shot in pictures()]
    report = import_data(built(tmp_path, "labelme", shots), tmp_path / "out")
    assert report.splits == {"train": 3, "val": 1}
    assert "'train' alone" in report.split_rule


def test_links_lead_to_the_images_and_a_zip_cannot_be_linked(tmp_path):
    root, out = built(tmp_path, "coco"), tmp_path / "out"
    import_data(root, out, Rules(link=True))
    link = out / "images/train/shot0.png"
    assert link.is_symlink()
    assert link.resolve() == root / "train/shot0.png"
    assert import_data(root, out, Rules(link=True)).written == 0
    assert check_folder(FolderData(out)).ok
    shutil.make_archive(str(tmp_path / "export"), "zip", root)
    with pytest.raises(HfgdError, match=r"--link needs images that are files"):
        import_data(tmp_path / "export.zip", tmp_path / "other", Rules(link=True))


def test_out_may_lie_in_the_source(tmp_path):
    root = built(tmp_path, "labelme")
    first = import_data(root, root / "out")
    assert import_data(root, root / "out").kept == 8
    assert first.splits == {"train": 3, "val": 1}


def test_a_finished_folder_is_never_overwritten(tmp_path):
    root, out = built(tmp_path, "coco"), tmp_path / "out"
    import_data(root, out)
    before = digests(out)
    for rules, words in [
        (Rules(unlabelled="background"), "already holds a data set with other classes"),
        (Rules(unlabelled="road"), r"is not what this import would write"),
    ]:
        with pytest.raises(HfgdError, match=words):
            import_data(root, out, rules)
        assert digests(out) == before
    other = tmp_path / "x"
    other.mkdir()
    with pytest.raises(HfgdError, match="is not of this run"):
        import_data(built(other, "coco", [*pictures(6)[:3], pictures(5)[4]]), out)
    assert digests(out) == before


@pytest.mark.situation(
    "every format",
    "two images of one name",
    "refused",
)
def test_two_images_of_one_name_are_refused(tmp_path):
    root = built(tmp_path, "supervisely")
    shutil.copytree(root / "train", root / "training")
    with pytest.raises(HfgdError, match="would both be called 'shot0'"):
        import_data(root, tmp_path / "out")


# ---- auto -----------------------------------------------------------------------------------


def test_auto_refuses_two_formats_and_none(tmp_path):
    root = built(tmp_path, "coco")
    BUILDERS["labelme"](root, pictures())
    with pytest.raises(HfgdError, match=r"fits 2 formats: coco \(.*; labelme \(.*--format"):
        import_data(root, tmp_path / "out")
    assert import_data(root, tmp_path / "out", Rules(format="labelme")).format == "labelme"
    (tmp_path / "empty").mkdir()
    with pytest.raises(HfgdError, match="none of the formats coco, coco_panoptic, labelme"):
        import_data(tmp_path / "empty", tmp_path / "out2")


def test_a_named_file_finds_its_images(tmp_path, monkeypatch):
    """Beside it, or beside the folder annotations in which it lies, wherever one stands."""
    root = built(tmp_path, "coco")
    report = import_data(root / "annotations/instances_train.json", tmp_path / "out")
    assert report.splits == {"train": 2, "val": 1}
    monkeypatch.chdir(root / "annotations")
    assert import_data(Path("instances_val.json"), tmp_path / "val").splits == {"val": 1}
    assert digests(tmp_path / "val/labels")
    BUILDERS["labelme"](tmp_path / "lm", pictures())
    one = import_data(tmp_path / "lm/train/shot0.json", tmp_path / "one")
    assert one.splits == {"train": 1}


def test_an_out_that_cannot_be_a_folder(tmp_path, run):
    root = built(tmp_path, "labelme")
    (tmp_path / "file").write_text("")
    for out in ("file", "file/x"):
        code, _, err = run("data", "import", root, "--out", tmp_path / out)
        assert code == 2
        assert "cannot be made a folder" in err


def test_importing_needs_no_torch(tmp_path):
    """It takes seconds to load."""
    code = "import sys, hfgd.data.importing.import_data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_auto_knows_an_ordinary_data_folder_and_the_own_names(folder, tmp_path):
    with pytest.raises(HfgdError, match="is an ordinary data folder already"):
        import_data(folder, tmp_path / "out")
    with pytest.raises(HfgdError, match="no format named 'labelmee'; did you mean 'labelme'"):
        import_data(folder, tmp_path / "out", Rules(format="labelmee"))
    with pytest.raises(HfgdError, match="there is no 'nowhere'"):
        import_data(Path("nowhere"), tmp_path / "out")


# ---- EXIF -----------------------------------------------------------------------------------


def turned(path, orientation):
    """Give a stored image an EXIF orientation."""
    with Image.open(path) as picture:
        picture.load()
        exif = picture.getexif()
        exif[0x0112] = orientation
        picture.save(path, exif=exif)


@pytest.mark.situation(
    "every format",
    "images that EXIF turns, annotated upright or as stored",
    "read; sizes decide, else taken as upright and noted",
)
@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("of", ["stored", "upright"])
def test_labels_follow_the_image_that_exif_turns(tmp_path, orientation, of):
    """A car drawn on the one bright block stays on it, whichever image the tool showed."""
    shot = pictures(1)[0]._replace(split="train", blocks=[Block("car", 3, 2, 19, 9)])
    shot.pixels[:] = 0
    shot.pixels[shot.blocks[0].mask()] = 255
    root = built(tmp_path, "labelme", [shot])
    path = root / "train/shot0.png"
    stored = Image.open(path)
    stored.load()
    sideways = orientation >= 5
    if of == "upright":
        # store the image such that EXIF turns it into the one that was annotated
        back = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
        how = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}[back]
        stored.transpose(Image.Transpose(how)).save(path)
    turned(path, orientation)
    report = import_data(root, tmp_path / "out")
    sample = FolderDataset(FolderData(tmp_path / "out"), "train")[0]
    bright = sample.image[0].numpy() == 255
    assert bright.sum() == 16 * 7
    on_it = np.array_equal(sample.label.numpy() == 0, bright)
    if of == "stored" and not sideways:
        # sizes cannot tell: the tool is believed to show images upright, and the user is told
        assert not on_it
    else:
        assert on_it
    notes = " ".join(report.notes)
    assert ("as stored" in notes) == (of == "stored" and sideways)
    assert ("look at one" in notes) == (not sideways)


def test_annotations_that_state_no_size_are_taken_as_upright_and_told(tmp_path):
    """YOLO's shares fit both ways; Ultralytics reads images upright."""
    shot = pictures(1)[0]._replace(split="train", blocks=[Block("car", 0, 0, 20, 24)])
    root = built(tmp_path, "ultralytics", [shot, shot._replace(name="shot1", split="val")])
    turned(root / "images/train/shot0.png", 6)
    report = import_data(root, tmp_path / "out")
    label = labels(tmp_path / "out")[0]["shot0"]
    assert label.shape == (40, 24)
    assert (label[:, :12] == 1).all()
    assert not label[:, 12:].any()
    assert "look at one" in " ".join(report.notes)


def test_a_split_that_is_missing_is_told(tmp_path):
    shots = [shot._replace(split="val") for shot in pictures()]
    report = import_data(built(tmp_path, "roboflow", shots), tmp_path / "out")
    assert report.splits == {"val": 4}
    assert "there is no split 'train'; training needs train and val" in report.notes


def test_sizes_that_fit_neither_way_are_refused(tmp_path):
    root = built(tmp_path, "coco")
    Image.new("RGB", (41, 24)).save(root / "train/shot1.png")
    with pytest.raises(HfgdError, match=r"image 1 is of an image of 24×40.*shot1\.png' is 24×41"):
        import_data(root, tmp_path / "out")
    assert not (tmp_path / "out/data.yaml").exists()


def test_sixteen_bit_images_are_refused(tmp_path):
    root = built(tmp_path, "coco")
    Image.fromarray(np.zeros((24, 40), dtype=np.uint16)).save(root / "train/shot1.png")
    with pytest.raises(HfgdError, match=r"shot1\.png' has mode I;16"):
        import_data(root, tmp_path / "out")


@pytest.mark.situation(
    "every format",
    "a damaged zip",
    "refused, naming it",
)
def test_a_damaged_zip_is_named(tmp_path):
    (tmp_path / "export.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(HfgdError, match=r"export\.zip' is no readable zip"):
        import_data(tmp_path / "export.zip", tmp_path / "out")
    assert not zipfile.is_zipfile(tmp_path / "export.zip")
