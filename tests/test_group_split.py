"""Splitting by groups, and what ``hfgd data check`` says of images that are in two splits."""

import itertools
import shutil

import numpy as np
import pytest
from PIL import Image

from hfgd.data.check import check_folder
from hfgd.data.duplicates import BLOCK, Print, fingerprint, twins
from hfgd.data.folder import FolderData
from hfgd.data.images import read_image
from hfgd.data.importing.split import choose, cost, share_table, split_folder
from hfgd.data.open import open_dataset
from hfgd.errors import HfgdError
from test_formats import digests


def grouped(root, groups=10, most=6, seed=0, classes=3):
    """A data folder of videos of 1 to ``most`` frames; video i has its own mixture of classes."""
    rng = np.random.default_rng(seed)
    for number in range(groups):
        mixture = rng.dirichlet(np.full(classes, 0.3))
        for frame in range(int(rng.integers(1, most + 1))):
            split = ["train", "val"][int(rng.integers(2))]
            name = f"v{number:02d}_{frame}.png"
            for kind in ("images", "labels"):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
            label = rng.choice(classes, (6, 8), p=mixture).astype(np.uint8)
            Image.fromarray(label).save(root / "labels" / split / name)
            pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / name)
    names = [chr(97 + i) for i in range(classes)]
    (root / "data.yaml").write_text(f"classes: [{', '.join(names)}]\n")
    return root


def stems(out, split):
    return {path.stem for path in (out / "images" / split).iterdir()}


@pytest.mark.parametrize("seed", range(10))
def test_few_groups_are_dealt_out_in_the_best_of_all_ways(monkeypatch, seed):
    """Eight groups, against a loop over all 254 ways; the search for many comes near it."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 1000, (8, 5)) * (rng.random((8, 5)) < 0.6)
    images = rng.integers(1, 30, 8)
    shares = share_table(pixels, images)
    ways = (np.array(way) for way in itertools.product([False, True], repeat=8))
    lowest = min(cost(shares, way, 0.3) for way in ways if 0 < way.sum() < 8)
    assert cost(shares, choose(pixels, images, 0.3, 0), 0.3) == pytest.approx(lowest, abs=1e-9)
    monkeypatch.setattr("hfgd.data.importing.split.FEW", 0)
    searched = choose(pixels, images, 0.3, 0)
    assert 0 < searched.sum() < 8
    assert lowest - 1e-9 <= cost(shares, searched, 0.3) <= 1.3 * lowest


def test_many_groups_come_very_near_the_asked_shares():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 1000, (600, 20))
    images = rng.integers(1, 50, 600)
    chosen = choose(pixels, images, 0.2, 0)
    assert images[chosen].sum() / images.sum() == pytest.approx(0.2, abs=0.002)
    of_class = pixels[chosen].sum(axis=0) / pixels.sum(axis=0)
    assert np.abs(of_class - 0.2).max() < 0.002


def test_the_cost_counts_images_and_classes_alike():
    pixels, images = np.array([[4, 0, 0], [4, 2, 0]]), np.array([1, 3])
    # val = the first: 1/4 of the images, half of the first class, none of the second; the third
    # occurs nowhere
    wanted = (1 / 4 - 0.5) ** 2 + ((1 / 2 - 0.5) ** 2 + (0 - 0.5) ** 2) / 2
    assert cost(share_table(pixels, images), np.array([True, False]), 0.5) == pytest.approx(wanted)


@pytest.mark.parametrize("by", [r"^(v\d+)_", r"^v\d+", r"^(v)(\d+)"])
def test_groups_stay_whole_and_nothing_gets_lost(tmp_path, by):
    root = grouped(tmp_path / "data")
    before = digests(root)
    outcome = split_folder(root, by, tmp_path / "out", val=0.3)
    train, val = stems(tmp_path / "out", "train"), stems(tmp_path / "out", "val")
    assert not {name[:3] for name in train} & {name[:3] for name in val}
    assert train | val == {path.stem for path in (root / "images").rglob("*.png")}
    assert outcome.images == {"train": len(train), "val": len(val)}
    assert len(val) / len(train | val) == pytest.approx(0.3, abs=0.1)
    assert digests(root) == before
    report = check_folder(FolderData(tmp_path / "out"))
    assert report.ok
    for split in report.splits:
        assert np.array_equal(split.pixels[:-1], outcome.pixels[split.split])
    for path in (tmp_path / "out/images").rglob("*.png"):  # labels went with their images
        name = path.stem
        old = next((root / "images").rglob(f"{name}.png"))
        new_label = tmp_path / "out/labels" / path.parent.name / f"{name}.png"
        old_label = root / "labels" / old.parent.name / f"{name}.png"
        assert path.read_bytes() == old.read_bytes()
        assert new_label.read_bytes() == old_label.read_bytes()


def test_it_is_repeatable_resumable_and_never_overwrites(tmp_path):
    root, out = grouped(tmp_path / "data"), tmp_path / "out"
    first = split_folder(root, r"^v\d+", out, 0.3)
    assert first.written == 2 * sum(first.images.values())
    whole = digests(out)
    assert split_folder(root, r"^v\d+", out, 0.3).written == 0
    (out / "data.yaml").unlink()
    for path in list((out / "images").rglob("*.png"))[:3]:
        path.write_bytes(b"half")
    assert split_folder(root, r"^v\d+", out, 0.3).written == 3
    assert digests(out) == whole
    changed = next((out / "labels").rglob("*.png"))
    changed.write_bytes(b"mine")
    with pytest.raises(HfgdError, match=f"{changed.name}' is not what would be written"):
        split_folder(root, r"^v\d+", out, 0.3)
    assert changed.read_bytes() == b"mine"
    with pytest.raises(HfgdError, match="is not of this run"):
        split_folder(root, r"^v\d+", out, 0.7)
    with pytest.raises(HfgdError, match="--out is the folder itself"):
        split_folder(root, r"^v\d+", root)


def test_a_csv_gives_groups_and_other_splits_stay(tmp_path):
    root = grouped(tmp_path / "data")
    for kind in ("images", "labels"):
        (root / kind / "test").mkdir()
        Image.new("L", (8, 6)).save(root / kind / "test" / "v99_0.png")
    names = sorted(p.stem for p in (root / "images").rglob("v0[0-8]*.png"))
    patients = {name: f"patient {int(name[1:3]) % 4}" for name in names}
    lines = ["name,group", "not_here.png,x", *(f"{n}.png,{g}" for n, g in patients.items())]
    table = tmp_path / "groups.csv"
    table.write_text("\n".join([*lines, *(f"{p.stem},lone" for p in root.glob("images/*/v09*"))]))
    outcome = split_folder(root, str(table), tmp_path / "out", 0.25, link=True)
    assert outcome.others == ["test"]
    val = stems(tmp_path / "out", "val")
    of = {name: patients.get(name, "lone") for name in val | stems(tmp_path / "out", "train")}
    assert not {of[n] for n in val} & {of[n] for n in of.keys() - val}
    link = next((tmp_path / "out/images/test").iterdir())
    assert link.is_symlink()
    assert link.resolve() == root / "images/test/v99_0.png"


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("(", r"'--by \(' is no regular expression"),
        ("^x", r"'--by \^x' does not fit \d+ of \d+ images, 'v00_0' first"),
        ("^v", r"'--by \^v' puts all \d+ images into one group, 'v'"),
        ("nowhere.csv", r"--by: there is no file 'nowhere\.csv'"),
    ],
)
def test_keys_that_do_not_work(tmp_path, by, words):
    root = grouped(tmp_path / "data")
    with pytest.raises(HfgdError, match=words):
        split_folder(root, by, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_photos_and_one_of_masks(tmp_path, run):
    """The way of docs/start.md; what was missed is said with the way out."""
    source = grouped(tmp_path / "data")
    mine = tmp_path / "mine"
    for kind in ("images", "labels"):
        (mine / kind).mkdir(parents=True)
        for path in source.rglob(f"{kind}/*/*"):
            shutil.copy(path, mine / kind / path.name)
    shutil.copy(source / "data.yaml", mine)
    with pytest.raises(HfgdError, match="put all images into images/train"):
        split_folder(mine, ".+", tmp_path / "out")
    with pytest.raises(HfgdError, match="'hfgd data split' makes val of a part of train"):
        check_folder(FolderData(mine))
    for kind in ("images", "labels"):
        files = list((mine / kind).iterdir())
        (mine / kind / "train").mkdir()
        for path in files:
            path.rename(mine / kind / "train" / path.name)
    with pytest.raises(HfgdError, match="'hfgd data split' makes val of a part of train"):
        open_dataset(str(mine), "val")
    outcome = split_folder(mine, ".+", tmp_path / "out")
    assert sum(outcome.images.values()) == len(list(mine.rglob("images/train/*")))
    assert len(open_dataset(str(tmp_path / "out"), "val")) > 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("v00_0,a\n", r"groups\.csv' does not list \d+ of"),
        ("v00_0,a,b\n", r"groups\.csv': line 1 is not of the form"),
        ("v00_0,a\nv00_0,b\n", r"groups\.csv': line 2 gives 'v00_0' another group"),
    ],
)
def test_tables_that_do_not_work(tmp_path, text, words):
    root = grouped(tmp_path / "data")
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(HfgdError, match=words):
        split_folder(root, str(tmp_path / "groups.csv"), tmp_path / "out")


def test_the_command_tells_what_it_did(tmp_path, run):
    root = grouped(tmp_path / "data")
    code, out, _ = run("data", "split", root, "--by", r"^(v\d+)", "--val", "0.3")
    assert code == 0
    assert (tmp_path / "data-split/data.yaml").is_file()
    assert "% of its pixels in val" in out
    code, _, err = run("data", "split", root, "--by", "^x")
    assert code == 2
    assert len(err.strip().splitlines()) == 1


# ---- twins ----------------------------------------------------------------------------------


def random_print(rng):
    bits = rng.integers(0, 1 << 16, 4, dtype=np.uint16)
    return Print(rng.bytes(16), bits, rng.integers(0, 256, (8, 9), dtype=np.uint8))


def test_twins_are_those_that_a_loop_finds(monkeypatch):
    """Hashes at every distance around the limit, in blocks of few rows, against two loops."""
    rng = np.random.default_rng(0)
    first = {f"a{i}": random_print(rng) for i in range(60)}
    second = {}
    for i in range(80):
        near = first[f"a{i % 60}"]
        bits = near.bits.copy()
        for bit in rng.choice(64, i % 8, replace=False):
            bits[bit // 16] ^= np.uint16(1 << bit % 16)
        grey = np.clip(near.thumbnail.astype(int) + (3 if i % 3 else 40), 0, 255).astype(np.uint8)
        digest = near.digest if i % 11 == 0 else rng.bytes(16)
        second[f"b{i}"] = Print(digest, bits, grey)
    monkeypatch.setattr("hfgd.data.duplicates.BLOCK", 150)
    expected = {}
    for name, one in second.items():
        for other_name, other in first.items():
            distance = bin(int.from_bytes((one.bits ^ other.bits).tobytes(), "little")).count("1")
            grey = np.abs(one.thumbnail.astype(float) - other.thumbnail).mean()
            if one.digest == other.digest:
                expected[name] = (other_name, None)
            elif distance <= 4 and grey <= 8:
                best = expected.get(name, ("", 99))[1]
                if best is not None and distance < best:
                    expected[name] = (other_name, distance)
    found = twins(first, second)
    assert {twin.second: (twin.first, twin.bits) for twin in found} == expected
    assert len({bits for _, bits in expected.values()}) == 6  # None and 0 to 4
    assert BLOCK > 150


def test_pictures_that_are_nearly_the_same_and_others():
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    picture = np.array(coarse.resize((160, 128), Image.Resampling.BICUBIC))
    noisy = np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
    smaller = np.array(Image.fromarray(picture).resize((120, 96)))
    other = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    other = np.array(Image.fromarray(other).resize((160, 128), Image.Resampling.BICUBIC))
    black, grey = np.zeros_like(picture), np.full_like(picture, 90)
    first = {"picture": fingerprint(picture), "black": fingerprint(black)}
    second = {
        "same": fingerprint(picture.copy()),
        "noisy": fingerprint(noisy),
        "smaller": fingerprint(smaller),
        "other": fingerprint(other),
        "grey": fingerprint(grey),  # as flat as black, and another picture
        "reshaped": fingerprint(picture.reshape(64, 320, 3)),  # the same bytes, another picture
    }
    found = {twin.second: twin for twin in twins(first, second)}
    assert found["same"].bits is None
    assert found.keys() == {"same", "noisy", "smaller"}


def test_check_remarks_on_leaks_and_is_still_good(folder, run):
    (folder / "images/val/val0.png").write_bytes((folder / "images/train/train1.png").read_bytes())
    picture = Image.open(folder / "images/train/train2.png")
    Image.fromarray(np.clip(np.array(picture).astype(int) + 2, 0, 255).astype(np.uint8)).save(
        folder / "images/val/val1.png"
    )
    report = check_folder(FolderData(folder))
    assert report.ok
    train, val = report.splits
    assert not train.remarks
    text = "\n".join(val.remarks)
    assert "'val' has images that are the same as images of 'train': 1;" in text
    assert "'val' has images that are nearly the same as images of 'train': 1;" in text
    assert "val/val0 is train/train1: same pixels" in text
    assert "val/val1 is train/train2: " in text
    code, out, _ = run("data", "check", folder)
    assert code == 0
    assert "val/val0 is train/train1" in out


def test_real_neighbours_are_found_and_real_splits_are_clean(shared):
    """CamVid's train and val are other drives; within val each frame is the next one's neighbour."""
    root = shared / "data/camvid/images"
    prints = {
        split: {
            path.stem: fingerprint(read_image(path)) for path in sorted((root / split).iterdir())
        }
        for split in ("train", "val")
    }
    assert not twins(prints["train"], prints["val"])
    frames = list(prints["val"].items())
    neighbours = [twins(dict([a]), dict([b])) for a, b in itertools.pairwise(frames)]
    assert sum(map(bool, neighbours)) == 77
