"""Label maps, folders, augmentation, the sample stream, export and check."""

import numpy as np
import pytest
import torch
from PIL import Image

from hfgd.data.check import check_folder
from hfgd.data.classes import IGNORE, ClassSet, LabelMap, voc_colour
from hfgd.data.dataset import Sample
from hfgd.data.folder import FolderData, FolderDataset
from hfgd.data.images import read_image
from hfgd.data.loader import EvalBatches, TrainBatches, TrainStream
from hfgd.data.open import open_dataset
from hfgd.data.prediction import Prediction, colourise
from hfgd.data.scenes import CLASSES, POLE, ScenesDataset, scene
from hfgd.data.transforms.photometric import scale_saturation
from hfgd.data.transforms.pipeline import Augment
from hfgd.data.transforms.spec import AugmentSpec
from hfgd.data.write_folder import export
from hfgd.errors import HfgdError
from hfgd.types import Grid

ABC = ClassSet.of(["a", "b", "c"])


def test_folder_applies_the_label_map(folder):
    dataset = open_dataset(str(folder), "train")
    raw = np.array(Image.open(folder / "labels/train/train1.png"))
    expected = np.select([raw == 10, raw == 20, raw == 30], [0, 1, 2], IGNORE)
    sample = dataset[1]
    assert len(dataset) == 3
    assert sample.name == "train1"
    assert np.array_equal(sample.label.numpy(), expected)
    pixels = np.array(Image.open(folder / "images/train/train1.png"))
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_labels(tmp_path, mode):
    entries = {"255, 0, 0": "a", "#00ff00": "b", "(0,0,255)": "ignore"}
    label_map = LabelMap.parse(entries, ABC, "data.yaml")
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)
    picture = Image.fromarray(colours[None]).convert("RGB")
    picture = picture.quantize(3) if mode == "P" else picture.convert(mode)
    picture.save(tmp_path / "label.png")
    assert label_map.load(tmp_path / "label.png").tolist() == [[0, 1, IGNORE]]


def test_sixteen_bit_ids(tmp_path):
    label_map = LabelMap.parse({1000: "a", 40000: "c", 0: "ignore"}, ABC, "data.yaml")
    Image.fromarray(np.array([[1000, 40000, 0]], dtype=np.uint16)).save(tmp_path / "label.png")
    assert label_map.load(tmp_path / "label.png").tolist() == [[0, 2, IGNORE]]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({0: "a", "1,2,3": "b"}, "mixes ids and colours"),
        ({0: "a", "0": "b"}, "lists a value twice"),
        ({0: "aa"}, "no class named 'aa'; did you mean 'a'"),
        ({"300,0,0": "a"}, "neither an id from 0 to 65535 nor a colour"),
        ({-1: "a"}, "neither an id"),
    ],
)
def test_label_maps_that_make_no_sense(entries, words):
    with pytest.raises(HfgdError, match=words):
        LabelMap.parse(entries, ABC, "data.yaml")


def test_ids_outside_the_map_name_file_and_ids(folder):
    path = folder / "labels/train/train0.png"
    Image.fromarray(np.full((40, 50), 77, dtype=np.uint8)).save(path)
    with pytest.raises(HfgdError, match=r"train0\.png.*ids 77"):
        open_dataset(str(folder), "train")[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("classes: [a, b]\ncolors: {}", "no key named 'colors'; did you mean 'colours'"),
        ("classes: [a, a]", "listed twice"),
        ("classes: []", "1 to 255 classes"),
        ("classes: 3", "classes:"),
        ("classes: [a\n", "no valid YAML"),
        ("- a", "must hold keys"),
        ("classes: [a]\ncolours: {b: [1, 2, 3]}", "no class named 'b'"),
    ],
)
def test_data_yaml_mistakes_are_named(folder, text, words):
    (folder / "data.yaml").write_text(text)
    with pytest.raises(HfgdError, match=words):
        FolderData(folder)


def test_data_yaml_may_lie_elsewhere_or_name_the_folder(folder, tmp_path):
    text = (folder / "data.yaml").read_text()
    (folder / "data.yaml").unlink()
    (tmp_path / "other.yaml").write_text(text)
    assert len(open_dataset(str(folder), "val", tmp_path / "other.yaml")) == 2
    (tmp_path / "with_path.yaml").write_text(text + "path: data\n")
    assert len(open_dataset(str(tmp_path / "with_path.yaml"), "val")) == 2


def test_missing_pairs_folders_and_sizes(folder):
    with pytest.raises(HfgdError, match="no images of the split"):
        open_dataset(str(folder), "test")
    with pytest.raises(HfgdError, match="no data folder 'nowhere'"):
        open_dataset("nowhere", "train")
    Image.new("L", (50, 41), 10).save(folder / "labels/train/train2.png")
    with pytest.raises(HfgdError, match="must have the same size"):
        open_dataset(str(folder), "train")[2]
    (folder / "labels/train/train0.png").unlink()
    with pytest.raises(HfgdError, match=r"1 of 3 images of the split.*train0\.png"):
        open_dataset(str(folder), "train")


def test_images_of_every_mode_load_upright(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    for mode in ("L", "P", "RGBA", "CMYK", "1"):
        suffix = "tif" if mode == "CMYK" else "png"
        Image.fromarray(pixels).convert(mode).save(tmp_path / f"{mode}.{suffix}")
        assert read_image(tmp_path / f"{mode}.{suffix}").shape == (8, 12, 3)
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    turned.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(pixels, -1))


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign", "sixteen bits"])
def test_images_that_cannot_be_read_are_named(folder, damage):
    path = folder / "images/train/train0.png"
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif damage == "foreign":
        path.write_text("not a picture")
    else:
        Image.fromarray(np.zeros((40, 50), dtype=np.uint16)).save(path)
    with pytest.raises(HfgdError, match=r"train0\.png"):
        read_image(path)


def test_check_reports_everything_that_would_break(folder):
    assert check_folder(FolderData(folder)).ok
    Image.fromarray(np.full((40, 50), 77, dtype=np.uint8)).save(folder / "labels/train/train0.png")
    truncated = folder / "images/train/train1.png"
    truncated.write_bytes(truncated.read_bytes()[:2000])
    Image.new("L", (50, 41), 10).save(folder / "labels/train/train2.png")
    Image.new("RGB", (50, 40)).save(folder / "images/train/lonely.png")
    Image.new("L", (50, 40), 10).save(folder / "labels/val/alone.png")
    seen = []
    report = check_folder(FolderData(folder), lambda done, total: seen.append((done, total)))
    train, val = report.splits
    assert not report.ok
    assert [p.split(":")[0] for p in train.problems[:1]] == ["image without label"]
    text = "\n".join(train.problems)
    assert "train0.png holds ids 77" in text
    assert "train1.png' is broken or truncated" in text
    assert "sizes differ" in text
    assert any("label without image" in remark for remark in val.remarks)
    assert not val.problems
    assert len(seen) == 5


def test_check_names_classes_that_never_occur(folder):
    (folder / "data.yaml").write_text(
        "classes: [a, b, c, d]\nlabel_map: {10: a, 20: b, 30: c, 40: d, 99: ignore}\n"
    )
    report = check_folder(FolderData(folder))
    assert report.ok
    (remark,) = report.splits[0].remarks
    assert remark.startswith(
        "classes that never occur in 'train': d; 26% of the pixels are ignored"
    )


def test_check_counts_pixels_exactly(folder):
    (train, _) = check_folder(FolderData(folder)).splits
    expected = np.zeros(4, dtype=np.int64)
    for path in (folder / "labels/train").iterdir():
        raw = np.array(Image.open(path))
        expected += [(raw == value).sum() for value in (10, 20, 30, 99)]
    assert train.pixels.tolist() == expected.tolist()


# ---- the sample stream --------------------------------------------------------------------


def stream(folder, seed=0):
    augment = Augment(AugmentSpec(crop=(33, 47), colours="advanced"), torch.zeros(3), Grid.CORNERS)
    return TrainStream(open_dataset(str(folder), "train"), augment, seed)


def test_sample_k_depends_on_seed_and_k_alone(folder):
    one, other = stream(folder), stream(folder)
    forwards = [one[k] for k in range(12)]
    backwards = {k: other[k] for k in reversed(range(12))}
    for k, sample in enumerate(forwards):
        assert torch.equal(sample.image, backwards[k].image)
        assert torch.equal(sample.label, backwards[k].label)
    assert any(not torch.equal(stream(folder, 1)[k].image, forwards[k].image) for k in range(3))


def test_every_pass_sees_every_image_once(folder):
    samples = stream(folder)
    for first in (0, 3, 6):
        names = {samples[k].name for k in range(first, first + 3)}
        assert names == {"train0", "train1", "train2"}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_workers_start_or_world(folder, workers):
    plain = iter(TrainBatches(stream(folder), 4, 0, 0, rank=0, world=1))
    reference = [next(plain) for _ in range(3)]
    with TrainBatches(stream(folder), 4, 2, workers, rank=0, world=1) as batches:
        late = next(iter(batches))
    assert torch.equal(late.image, reference[2].image)
    halves = []
    for rank in (0, 1):
        with TrainBatches(stream(folder), 2, 1, workers, rank, world=2) as batches:
            halves.append(next(iter(batches)))
    assert torch.equal(torch.cat([h.image for h in halves]), reference[1].image)
    assert halves[0].names + halves[1].names == reference[1].names


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_mid_run_is_one_sentence(folder, workers):
    (folder / "images/train/train0.png").write_text("gone")
    says = r"^image '.*train0\.png' is no image that can be read \(JPEG, PNG, "
    with (
        pytest.raises(HfgdError, match=says),
        TrainBatches(stream(folder), 3, 0, workers, rank=0, world=1) as batches,
    ):
        list(zip(range(2), batches, strict=False))


def test_eval_batches_count_each_image_once_over_processes(folder):
    dataset = open_dataset(str(folder), "train")
    names = [b.name for rank in (0, 1) for b in EvalBatches(dataset, 0, rank, 2)]
    assert sorted(names) == ["train0", "train1", "train2"]


# ---- augmentation ---------------------------------------------------------------------------


def ramp(height=40, width=50):
    """An image whose red and green say where a pixel came from, and a label that agrees."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([y, x, torch.zeros_like(y)]).to(torch.uint8)
    return Sample(image, ((x // 10 + y // 10) % 3).to(torch.uint8), "ramp")


def test_crop_and_flip_keep_image_and_label_together():
    spec = AugmentSpec(crop=(20, 30), scales=(1.0,), colours="none")
    augment = Augment(spec, torch.zeros(3), Grid.CORNERS)
    for seed in range(20):
        image, label, _ = augment(ramp(), np.random.default_rng(seed))
        y, x = image[:2].long()
        assert torch.equal(label, (x // 10 + y // 10) % 3)
        assert image.shape == (3, 20, 30)


def test_padding_is_mean_colour_and_ignore():
    mean = torch.tensor([0.2, 0.4, 0.6])
    spec = AugmentSpec(crop=(60, 80), scales=(0.5,), colours="none", flip=0)
    image, label, _ = Augment(spec, mean, Grid.CORNERS)(ramp(), np.random.default_rng(0))
    inside = torch.zeros(60, 80, dtype=torch.bool)
    inside[:20, :25] = True
    assert torch.equal(label != IGNORE, inside)
    assert torch.equal(image[:, ~inside].unique(dim=1)[:, 0], (255 * mean).round().byte())


def test_saturation_scales_like_hsv():
    import colorsys

    pixels = torch.rand(3, 40)
    changed = scale_saturation(pixels[:, :, None], 1.4)[:, :, 0]
    for before, after in zip(pixels.t().tolist(), changed.t().tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        expected = colorsys.hsv_to_rgb(hue, min(1, 1.4 * saturation), value)
        assert after == pytest.approx(expected, abs=1e-5)


def test_plain_brightness_is_one_shift_for_all_channels():
    spec = AugmentSpec(crop=(40, 50), scales=(1.0,), colours="plain", flip=0)
    grey = Sample(torch.full((3, 40, 50), 128, dtype=torch.uint8), ramp().label, "grey")
    augment = Augment(spec, torch.zeros(3), Grid.CORNERS)
    shifts = [augment(grey, np.random.default_rng(s)).image.unique().int() - 128 for s in range(60)]
    assert all(len(shift) == 1 for shift in shifts)
    sizes = torch.cat(shifts).abs()
    assert sizes.max() <= 32
    assert 10 < (sizes == 0).sum() < 50  # about half of them are left alone


# ---- scenes ---------------------------------------------------------------------------------


def test_scenes_are_a_pure_function_with_every_class():
    first, again = scene(3, 7), scene(3, 7)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], scene(3, 8)[1])
    assert not np.array_equal(first[1], scene(4, 7)[1])
    labels = np.concatenate([scene(0, i)[1].ravel() for i in range(12)])
    assert set(np.unique(labels)) == {*range(len(CLASSES)), IGNORE}


def test_scenes_have_poles_a_pixel_thin():
    """Objects go down to a pixel, so that a coarse model must fail on them."""
    thin = 0
    for i in range(10):
        pole = scene(0, i)[1] == POLE
        thin += (pole[:, 1:-1] & ~pole[:, :-2] & ~pole[:, 2:]).sum() > 20
    assert thin >= 8


def test_train_and_val_scenes_differ():
    train, val = ScenesDataset("train"), ScenesDataset("val")
    assert not set(train.indices) & set(val.indices)
    with pytest.raises(HfgdError, match="not 'test'"):
        ScenesDataset("test")


def test_export_writes_an_ordinary_data_folder(tmp_path):
    scenes = ScenesDataset("val", 3, size=(48, 64))
    export({"val": scenes}, tmp_path / "out")
    data = FolderData(tmp_path / "out")
    assert data.classes == scenes.classes
    again = FolderDataset(data, "val")
    for i in range(3):
        assert torch.equal(again[i].image, scenes[i].image)
        assert torch.equal(again[i].label, scenes[i].label)
    with pytest.raises(HfgdError, match="already holds a data set"):
        export({"val": scenes}, tmp_path / "out")


# ---- pictures of labels ---------------------------------------------------------------------


def test_prediction_saves_ids_with_a_palette(tmp_path):
    labels = np.array([[0, 1, 2, 255]], dtype=np.uint8)
    result = Prediction(np.zeros((1, 4, 3), np.uint8), labels, ABC)
    with Image.open(result.save(tmp_path / "deep/label.png")) as saved:
        assert saved.mode == "P"
        assert np.array_equal(np.array(saved), labels)
        assert np.array_equal(np.array(saved.convert("RGB")), colourise(labels, ABC))


def test_overlay_blends_and_names_the_classes():
    image = np.full((30, 200, 3), 100, dtype=np.uint8)
    result = Prediction(image, np.zeros((30, 200), np.uint8), ABC)
    bare = np.array(result.overlay(0.5, legend=False))
    assert abs(int(bare[0, 0, 0]) - (100 + ABC.palette[0][0]) // 2) <= 1
    assert result.overlay().height > 30


def test_voc_colours_are_the_well_known_ones():
    known = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert [voc_colour(i) for i in range(5)] == known
    assert voc_colour(20) == (0, 64, 128)


def test_a_hidden_folder_is_no_split(folder):
    (folder / "images/.ipynb_checkpoints").mkdir()
    assert FolderData(folder).splits() == ["train", "val"]
