"""Known data sets: miniature copies in each official format, compared pixel by pixel.

The originals cannot be had where this is built; directory names, file names, bit depths, MATLAB and
JSON structure and zips follow their publishers' descriptions.
"""

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from hfgd.data.check import check_folder
from hfgd.data.classes import IGNORE, LabelMap
from hfgd.data.importing.prepare import decode_mask, prepare
from hfgd.data.known import KNOWN
from hfgd.data.known.camvid import COLOURS, NAMES
from hfgd.data.known.cityscapes import LABEL_IDS
from hfgd.data.known.coco_stuff import ABSENT, RAW_IDS
from hfgd.data.known.pascal_context import CLASSES_459
from hfgd.data.open import open_dataset, open_files
from hfgd.data.statistics import class_shares, sample_sheet
from hfgd.errors import HfgdError

SIZE = (12, 16)


def image(rng):
    return rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def put(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


# name → (image path, label path, raw ids that may occur) of one pair, by layout and split
TREES = {
    "cityscapes": [
        ("leftImg8bit/{s}/aachen/aachen_00{i}_leftImg8bit.png",
         "gtFine/{s}/aachen/aachen_00{i}_gtFine_labelIds.png", range(34), {"train": "train", "val": "val"}),
        ("leftImg8bit/{s}/aachen/aachen_00{i}_leftImg8bit.png",
         "gtFine/{s}/aachen/aachen_00{i}_gtFine_labelTrainIds.png", [*range(19), 255],
         {"train": "train", "val": "val"}),
    ],
    "ade20k": [
        ("ADEChallengeData2016/images/{s}/ADE_{s}_0000{i}.jpg",
         "ADEChallengeData2016/annotations/{s}/ADE_{s}_0000{i}.png", range(151),
         {"train": "training", "val": "validation"}),
    ],
    "coco_stuff164k": [
        ("{s}/00000000{i}.jpg", "stuffthingmaps/{s}/00000000{i}.png", [*RAW_IDS, 255],
         {"train": "train2017", "val": "val2017"}),
        ("images/{s}/00000000{i}.jpg", "annotations/{s}/00000000{i}_labelTrainIds.png",
         [*range(171), 255], {"train": "train2017", "val": "val2017"}),
    ],
    "coco_stuff10k": [
        ("images/{s}/COCO_train2014_0{i}.jpg", "annotations/{s}/COCO_train2014_0{i}_labelTrainIds.png",
         range(172), {"train": "train2014", "val": "test2014"}),
    ],
    "camvid": [
        ("{s}/0001TP_00{i}.png", "{s}annot/0001TP_00{i}.png", range(12), {"train": "train", "val": "val"}),
        ("images/{s}/0001TP_00{i}.jpg", "labels/{s}/0001TP_00{i}.png", range(12),
         {"train": "train", "val": "val"}),
    ],
}  # fmt: skip
CASES = [(name, number) for name, trees in TREES.items() for number in range(len(trees))]


def expected_of(name, number, raw):
    """The meaning of raw ids, written down a second time."""
    if name == "cityscapes" and number == 0:
        return np.select([raw == v for v in LABEL_IDS], range(19), IGNORE)
    if name == "ade20k":
        return np.where(raw == 0, IGNORE, raw - 1)
    if name == "coco_stuff164k" and number == 0:
        below = np.array([sum(a < v for a in ABSENT) for v in range(256)])
        return np.where(raw == 255, IGNORE, raw - below[raw])
    if name == "coco_stuff10k":
        return np.where(raw == 0, IGNORE, raw - 1)
    if name == "camvid":
        return np.where(raw == 11, IGNORE, raw)
    return raw


def build(root, name, number, rng):
    """Two pairs of each split; returns the raw labels by split."""
    image_path, label_path, values, splits = TREES[name][number]
    raws = {}
    for split, theirs in splits.items():
        raws[split] = []
        for i in range(2):
            pixels, raw = image(rng), rng.choice(list(values), SIZE).astype(np.uint8)
            put(root / image_path.format(s=theirs, i=i), pixels)
            put(root / label_path.format(s=theirs, i=i), raw)
            raws[split].append((pixels, raw))
    return raws


@pytest.mark.parametrize(("name", "number"), CASES)
@pytest.mark.parametrize("zipped", [False, True])
def test_official_trees_and_zips(tmp_path, name, number, zipped):
    rng = np.random.default_rng(5)
    raws = build(tmp_path / "tree", name, number, rng)
    root = tmp_path / "tree"
    if zipped:
        root = tmp_path / "zips"
        root.mkdir()
        with zipfile.ZipFile(root / "download.zip", "w") as archive:
            for path in sorted((tmp_path / "tree").rglob("*.*")):
                archive.write(path, path.relative_to(tmp_path / "tree"))
    for split, pairs in raws.items():
        dataset = open_dataset(f"{name}:{root}", split)
        assert dataset.classes == KNOWN[name].classes
        assert len(dataset) == 2
        for i, (pixels, raw) in enumerate(pairs):
            sample = dataset[i]
            expected = expected_of(name, number, raw.astype(int))
            assert np.array_equal(sample.label.numpy(), expected)
            if str(dataset.pairs[i].image).endswith(".png"):
                assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), pixels)
    assert check_folder(open_files(f"{name}:{root}")).ok


def test_a_single_split_is_enough_to_know_the_form(tmp_path):
    raws = build(tmp_path, "cityscapes", 1, np.random.default_rng(8))
    for path in tmp_path.rglob("*train*/aachen/*.png"):
        path.unlink()
    dataset = open_dataset(f"cityscapes:{tmp_path}", "val")
    assert np.array_equal(dataset[0].label.numpy(), raws["val"][0][1])


def test_cityscapes_in_its_two_official_zips(tmp_path):
    rng = np.random.default_rng(1)
    raws = build(tmp_path / "tree", "cityscapes", 0, rng)
    root = tmp_path / "zips"
    root.mkdir()
    for part in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(root / f"{part}_trainvaltest.zip", "w") as archive:
            for path in (tmp_path / "tree" / part).rglob("*.png"):
                archive.write(path, path.relative_to(tmp_path / "tree"))
    dataset = open_dataset(f"cityscapes:{root}", "val")
    expected = expected_of("cityscapes", 0, raws["val"][1][1].astype(int))
    assert np.array_equal(dataset[1].label.numpy(), expected)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)
    assert [sample[2] for sample in loader] == [pair.name for pair in dataset.pairs]


def test_a_damaged_zip_is_named(tmp_path):
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(HfgdError, match=r"broken\.zip' is no readable zip"):
        open_dataset(f"ade20k:{tmp_path}", "train")


def pascal_tree(root, rng, labels=None):
    """MMSegmentation's tree of Pascal Context; split lists beside those of other tasks."""
    made = {}
    for split, names in (("train", ["2008_01", "2008_02"]), ("val", ["2008_03"])):
        for name in names:
            put(root / f"VOC2010/JPEGImages/{name}.jpg", image(rng))
            made[name] = rng.integers(0, 60, SIZE).astype(np.uint8)
            if labels:
                put(root / f"VOC2010/SegmentationClassContext/{name}.png", made[name])
        for task in ("SegmentationContext", "Main", "Segmentation"):
            listed = root / f"VOC2010/ImageSets/{task}/{split}.txt"
            listed.parent.mkdir(parents=True, exist_ok=True)
            listed.write_text("\n".join(names if task == "SegmentationContext" else ["x"]) + "\n")
    return made


def test_pascal_context_with_and_without_background(tmp_path):
    made = pascal_tree(tmp_path, np.random.default_rng(2), labels=True)
    without = open_dataset(f"pascal_context:{tmp_path}", "train")
    raw = made["2008_02"].astype(int)
    assert [pair.name for pair in without.pairs] == ["2008_01", "2008_02"]
    assert np.array_equal(without[1].label.numpy(), np.where(raw == 0, IGNORE, raw - 1))
    whole = open_dataset(f"pascal_context60:{tmp_path}", "train")
    assert np.array_equal(whole[1].label.numpy(), raw)
    assert len(open_dataset(f"pascal_context:{tmp_path}", "val")) == 1


def test_camvid_701_images_with_32_colours(tmp_path):
    rng = np.random.default_rng(3)
    colours = [(c, NAMES.index(n)) for n, many in COLOURS.items() for c in many]
    chosen = rng.integers(0, len(colours) + 1, SIZE)
    table = [tuple(bytes.fromhex(c)) for c, _ in colours] + [(0, 0, 0)]
    put(tmp_path / "701_StillsRaw_full/0001TP_1.png", image(rng))
    put(tmp_path / "LabeledApproved_full/0001TP_1_L.png", np.array(table, dtype=np.uint8)[chosen])
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/0001TP_1.png /SegNet/x.png\n")
    label = open_dataset(f"camvid:{tmp_path}", "train")[0].label.numpy()
    classes = np.array([k for _, k in colours] + [IGNORE])
    assert np.array_equal(label, classes[chosen])
    assert len(colours) == 31


def test_facts_are_consistent():
    for facts in KNOWN.values():
        for layout in facts.layouts:
            used = set(layout.table.values()) - {IGNORE}
            assert used == set(range(len(facts.classes))), (facts.name, layout.name)
    assert len(CLASSES_459) == 59
    assert list(CLASSES_459) == sorted(CLASSES_459)
    assert list(CLASSES_459.values()) == sorted(
        CLASSES_459.values()
    )  # alphabetical, as the ids are
    assert len(RAW_IDS) == 171


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda r: put(r / "a/ADE_train_1_seg.png", np.zeros(SIZE, np.uint8)), "full ADE20K"),
        (lambda r: put(r / "x.png", np.zeros(SIZE, np.uint8)), "does not look like ADE20K"),
    ],
)
def test_other_trees_are_refused_with_a_hint(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(HfgdError, match=words):
        open_dataset(f"ade20k:{tmp_path}", "train")


def test_unknown_names_and_unprepared_downloads_say_what_to_do(tmp_path):
    with pytest.raises(HfgdError, match="did you mean 'cityscapes'"):
        open_dataset(f"cityscape:{tmp_path}", "train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/COCO_1.mat").write_bytes(b"")
    with pytest.raises(HfgdError, match="hfgd data prepare coco_stuff10k"):
        open_dataset(f"coco_stuff10k:{tmp_path}", "train")
    with pytest.raises(HfgdError, match="is read as downloaded: use ade20k:PATH"):
        prepare("ade20k", tmp_path, tmp_path / "out")


# ---- prepare --------------------------------------------------------------------------------


def by_names(raw459):
    """Original ids → classes, through their names."""
    order = sorted(CLASSES_459.values())
    table = np.full(460, IGNORE)
    for original, name in CLASSES_459.items():
        table[original] = order.index(name)
    return table[raw459]


def run_length_text(mask):
    """COCO's text form of a mask: an encoder, against which the decoder is tested."""
    flat = mask.flatten(order="F").astype(int)
    changes = np.flatnonzero(np.diff(flat)) + 1
    edges = np.concatenate([[0], changes, [len(flat)]])
    runs = np.diff(edges).tolist()
    if flat[0] == 1:
        runs.insert(0, 0)
    text = ""
    for i, run in enumerate(runs):
        x = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits = x & 0x1F
            x >>= 5
            more = x != -1 if bits & 0x10 else x != 0
            text += chr((bits | 0x20 if more else bits) + 48)
    return {"size": list(mask.shape), "counts": text}, runs


@pytest.mark.parametrize("seed", range(6))
def test_run_length_masks_decode_to_what_was_encoded(seed):
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.integers(0, 2, (7, 5)), np.ones((9, 11), dtype=int)).astype(bool)
    text, runs = run_length_text(mask)
    assert np.array_equal(decode_mask(text), mask)
    assert np.array_equal(decode_mask({"size": text["size"], "counts": runs}), mask)


@pytest.mark.parametrize("release", ["mat", "png", "json"])
def test_pascal_context_from_each_release(tmp_path, release):
    rng = np.random.default_rng(4)
    names = list(pascal_tree(tmp_path, rng))
    raw = {n: rng.choice([0, 1, 100, *CLASSES_459], SIZE) for n in names}
    expected = {n: by_names(raw[n]) for n in names}
    if release == "mat":
        for name in names:
            (tmp_path / "trainval").mkdir(exist_ok=True)
            savemat(tmp_path / f"trainval/{name}.mat", {"LabelMap": raw[name].astype(np.uint16)})
    elif release == "png":  # another order of the 59: mapped by name
        order = rng.permutation(59)
        classes = KNOWN["pascal_context"].classes.names
        lines = [f"{i + 1}: {classes[k]}" for i, k in enumerate(order)]
        (tmp_path / "59_labels.txt").write_text("\n".join(lines))
        back = np.zeros(256, dtype=np.uint8)
        back[order] = np.arange(1, 60)
        for name in names:
            put(tmp_path / f"59_context_labels/{name}.png", back[expected[name]])
    else:
        regions, images = [], []
        for number, name in enumerate(names):
            phase = "val" if name == "2008_03" else "train"
            height, width = SIZE
            images.append({"image_id": number, "file_name": f"{name}.jpg", "phase": phase,
                           "height": height, "width": width})  # fmt: skip
            for category in np.unique(raw[name]):
                mask, _ = run_length_text(raw[name] == category)
                regions.append(
                    {"image_id": number, "category_id": int(category), "segmentation": mask}
                )
        content = {"images": images, "annos_segmentation": regions}
        (tmp_path / "trainval_merged.json").write_text(json.dumps(content))
    seen = []
    out = tmp_path / "out"
    counts = prepare("pascal_context", tmp_path, out, 1, lambda d, t: seen.append((d, t)))
    assert counts == {"train": 2, "val": 1}
    assert seen[-1] == (3, 3)
    for split, some in (("train", names[:2]), ("val", names[2:])):
        dataset = open_dataset(str(out), split)
        assert dataset.classes == KNOWN["pascal_context"].classes
        for i, name in enumerate(some):
            assert np.array_equal(dataset[i].label.numpy(), expected[name])
    assert check_folder(open_files(str(out))).ok

    stamp = (out / "labels/train/2008_01.png").stat().st_mtime_ns  # again: only what is missing
    (out / "labels/train/2008_02.png").unlink()
    prepare("pascal_context", tmp_path, out, 1)
    assert (out / "labels/train/2008_01.png").stat().st_mtime_ns == stamp
    assert (out / "labels/train/2008_02.png").is_file()


@pytest.mark.parametrize("zipped", [False, True])
def test_coco_stuff10k_from_mat(tmp_path, zipped):
    rng = np.random.default_rng(6)
    root, raws = tmp_path / "download", {}
    (root / "annotations").mkdir(parents=True)
    (root / "imageLists").mkdir()
    for split, names in (("train", ["COCO_1", "COCO_2"]), ("test", ["COCO_3"])):
        (root / f"imageLists/{split}.txt").write_text("\n".join(names))
        for name in names:
            put(root / f"images/{name}.jpg", image(rng))
            raws[name] = rng.choice([0, *(v + 1 for v in RAW_IDS)], SIZE)
            content = {"S": raws[name].astype(np.uint8), "captions": "a", "names": [1]}
            savemat(root / f"annotations/{name}.mat", content)
    source = root
    if zipped:
        source = tmp_path / "cocostuff-10k-v1.1.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in root.rglob("*.*"):
                archive.write(path, path.relative_to(root))
    assert prepare("coco_stuff10k", source, tmp_path / "out", 2) == {"train": 2, "val": 1}
    below = np.array([sum(a < v for a in ABSENT) for v in range(183)])
    for split, name, i in (("train", "COCO_2", 1), ("val", "COCO_3", 0)):
        raw = raws[name].astype(int)
        expected = np.where(raw == 0, IGNORE, raw - 1 - below[np.maximum(raw - 1, 0)])
        assert np.array_equal(open_dataset(str(tmp_path / "out"), split)[i].label.numpy(), expected)


def test_prepare_names_what_is_missing(tmp_path):
    with pytest.raises(HfgdError, match="no JPEGImages"):
        prepare("pascal_context", tmp_path, tmp_path / "out")
    pascal_tree(tmp_path, np.random.default_rng(0))
    with pytest.raises(HfgdError, match="none of the releases"):
        prepare("pascal_context", tmp_path, tmp_path / "out")
    (tmp_path / "trainval").mkdir()
    (tmp_path / "trainval/2008_01.mat").write_bytes(b"not MATLAB")
    with pytest.raises(HfgdError, match=r"lists '2008_02'.*no label of it"):
        prepare("pascal_context", tmp_path, tmp_path / "out")
    for name in ("2008_02", "2008_03"):
        (tmp_path / f"trainval/{name}.mat").write_bytes(b"not MATLAB")
    with pytest.raises(HfgdError, match=r"\.mat' is no MATLAB file"):
        prepare("pascal_context", tmp_path, tmp_path / "out", 1)
    assert not (tmp_path / "out/data.yaml").exists()  # never taken for done


# ---- fuzz, shares, samples ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_broken_label_files_never_crash(tmp_path, seed):
    """Bytes flipped, cut, or added in real PNGs: a label map or one sentence, nothing else."""
    rng = np.random.default_rng(seed)
    label_map = LabelMap({i: i for i in range(12)} | {255: IGNORE})
    path = tmp_path / "label.png"
    mode = ["L", "P", "RGB", "I;16", "1"][seed % 5]
    raw = rng.integers(0, 12, SIZE)
    picture = Image.fromarray(raw.astype(np.uint16 if mode == "I;16" else np.uint8))
    (picture if mode == "I;16" else picture.convert(mode)).save(path)
    data = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 20))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    path.write_bytes(bytes(data[: int(rng.integers(1, len(data) + 1))]))
    try:
        label = label_map.load(path)
    except HfgdError as error:
        sentence = str(error)
    else:
        sentence = "label.png"
        assert label.dtype == np.uint8
        assert set(np.unique(label)) <= {*range(12), IGNORE}
    assert "label.png" in sentence


def test_class_shares_and_sample_sheet(tmp_path):
    rng = np.random.default_rng(7)
    raws = build(tmp_path, "camvid", 0, rng)
    dataset = open_dataset(f"camvid:{tmp_path}", "train")
    pixels, read = class_shares(dataset, limit=10)
    both = np.concatenate([raw.ravel() for _, raw in raws["train"]])
    assert pixels.tolist() == [int((both == k).sum()) for k in range(12)]
    assert read == 2
    sample_sheet(dataset, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 4 * 360
