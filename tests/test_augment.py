"""Operations of augmentation and sampling, each against a second obvious way or known values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

import hfgd
from conftest import recipe
from hfgd.data.classes import ClassSet
from hfgd.data.dataset import Sample
from hfgd.data.loader import RareClasses, TrainStream, class_counts
from hfgd.data.transforms.geometric import Perspective, Rotation
from hfgd.data.transforms.mixing import CopyPaste, CutMix
from hfgd.data.transforms.photometric import Blur, ChannelShuffle, Gamma, Grey, Jpeg, Noise
from hfgd.data.transforms.pipeline import Augment
from hfgd.data.transforms.spec import AugmentSpec, stream
from hfgd.errors import HfgdError
from hfgd.recipes.spec import parse_overrides
from hfgd.training.fit import fit
from hfgd.types import Grid

FILL = [10.0, 20.0, 30.0]
ALL = {
    "rotation": 30, "perspective": 0.5, "blur": 2, "noise": 0.1, "gamma": 0.5, "jpeg": 30,
    "grey": 0.3, "channel_shuffle": 0.3, "max_class_share": 0.5, "cutmix": 0.5,
    "copy_paste": ("class 2",), "rare_class_sampling": 0.5,
}  # fmt: skip


class Scenes:
    """Six images; class 2 is a spot of 4×4 pixels in the last one, class 3 is nowhere."""

    classes, title = ClassSet.numbered(4), "spots"

    def __len__(self):
        return 6

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = np.zeros((60, 80), dtype=np.uint8)
        label[:, 40:] = 1
        label[:3] = 255
        if index == 5:
            label[20:24, 70:74] = 2
        image = torch.from_numpy(rng.integers(0, 256, (3, 60, 80), dtype=np.uint8))
        return Sample(image, torch.from_numpy(label), str(index))


def samples(**spec):
    small = {"crop": (33, 33), "scales": (1.0, 1.5), "colours": "none"}
    spec = AugmentSpec(**small | spec)
    return TrainStream(Scenes(), Augment(spec, torch.full((3,), 0.4), Grid.CORNERS), 7)


def equal(a, b):
    return torch.equal(a.image, b.image) and torch.equal(a.label, b.label) and a.name == b.name


# ---- streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*ALL, "everything"])
def test_samples_depend_on_seed_and_k_alone(key):
    spec = ALL if key == "everything" else {key: ALL[key]}
    one, other = samples(**spec), samples(**spec)
    backwards = {k: other[k] for k in reversed(range(12))}
    assert all(equal(one[k], backwards[k]) for k in range(12))
    assert any(not equal(one[k], samples()[k]) for k in range(12)), "it does something"


@pytest.mark.parametrize("key", ["blur", "noise", "gamma", "jpeg", "grey", "channel_shuffle"])
def test_an_operation_changes_no_other_draw(key):
    """Crops, flips and labels stay; images that it is not drawn for stay as they are."""
    plain, changed = samples(), samples(**{key: ALL[key]})
    pairs = [(plain[k], changed[k]) for k in range(24)]
    assert all(torch.equal(a.label, b.label) for a, b in pairs)
    untouched = sum(equal(a, b) for a, b in pairs)
    assert 0 < untouched < 24


def test_streams_are_apart_and_leave_the_first_one_alone():
    rng, untouched = (np.random.default_rng([3, 1, 8]) for _ in range(2))
    own = [stream(rng, number).random() for number in (1, 2)]
    assert rng.random() == untouched.random()
    assert stream(rng, 1).random() == own[0] != own[1]
    nested = stream(stream(rng, 1), 2).random()
    assert nested not in own


# ---- single operations --------------------------------------------------------------------------


def square(side=21, seed=0):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(0, 256, (3, side, side), dtype=np.uint8))
    return Sample(image, torch.from_numpy(rng.integers(0, 4, (side, side), dtype=np.uint8)), "s")


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation_by_quarters_is_numpys(turns):
    sample = square()
    turned = Rotation(90.0 * turns).apply(sample, FILL)
    assert np.array_equal(turned.label, np.rot90(sample.label, turns))
    expected = np.rot90(sample.image.numpy(), turns, (1, 2))
    assert np.abs(turned.image.numpy().astype(int) - expected).max() <= 1


def test_rotation_by_any_angle_is_the_nearest_pixel_back():
    sample, degrees = square(), 23.0
    turned = Rotation(degrees).apply(sample, FILL)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    differ = 0
    for y, x in np.ndindex(21, 21):
        from_x, from_y = c * (x - 10) - s * (y - 10) + 10, s * (x - 10) + c * (y - 10) + 10
        inside = -0.5 <= from_x <= 20.5 and -0.5 <= from_y <= 20.5
        expected = sample.label[round(from_y), round(from_x)].item() if inside else 255
        differ += turned.label[y, x].item() != expected
        if expected == 255 and not (-1.5 < from_x < 21.5 and -1.5 < from_y < 21.5):
            assert turned.image[:, y, x].tolist() == FILL
    assert differ <= 4  # ties and borders are rounded in fp32
    assert (turned.label == 255).any()


def test_perspective_moves_the_corners_where_it_says():
    label = torch.zeros(41, 41, dtype=torch.uint8)
    label[:3, :3], label[:3, -3:], label[-3:, -3:], label[-3:, :3] = 1, 2, 3, 4
    sample = Sample(torch.full((3, 41, 41), 200, dtype=torch.uint8), label, "p")
    corners = ((0.25, 0.1), (0.9, 0.2), (0.75, 0.9), (0.1, 0.8))
    moved = Perspective(corners).apply(sample, FILL)
    for number, (x, y) in enumerate(corners, start=1):
        place = torch.tensor([40 * y, 40 * x])
        found = (moved.label == number).nonzero().float()
        assert (found - place).abs().amin(0).max() <= 2, number
    assert moved.label[0, 0] == 255
    assert moved.image[:, 0, 0].tolist() == FILL
    assert torch.equal(
        Perspective(((0, 0), (1, 0), (1, 1), (0, 1))).apply(sample, FILL).label, label
    )


def test_colour_and_quality_operations_have_known_values(tmp_path):
    window = torch.rand(3, 40, 50)
    torch.testing.assert_close(Gamma(2.0).apply(window), window * window)
    grey = 0.2989 * window[0] + 0.587 * window[1] + 0.114 * window[2]
    torch.testing.assert_close(Grey().apply(window), grey.expand(3, 40, 50), rtol=0, atol=1e-4)
    assert torch.equal(ChannelShuffle((2, 0, 1)).apply(window), window[[2, 0, 1]])
    expected = np.stack([gaussian_filter(c, 1.5, mode="mirror", radius=5) for c in window.numpy()])
    np.testing.assert_allclose(Blur(1.5).apply(window), expected, atol=1e-5)
    flat = torch.full((3, 200, 200), 0.5)
    noisy = Noise(0.05, 3).apply(flat)
    assert noisy.std().item() == pytest.approx(0.05, rel=0.02)
    assert noisy.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert torch.equal(noisy, Noise(0.05, 3).apply(flat))
    pixels = (255 * window).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=40)
    again = Jpeg(40).apply(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    assert np.array_equal(
        (255 * again).round().byte().permute(1, 2, 0), Image.open(tmp_path / "a.jpg")
    )


def test_mixing_takes_image_and_label_of_the_same_pixels():
    one, other = square(20, 1), square(20, 2)
    mixed = CutMix(0.25, 0.5, 0.1, 0.6).apply(one, other)
    inside = torch.zeros(20, 20, dtype=torch.bool)
    inside[5:10, 2:12] = True
    assert torch.equal(mixed.label, torch.where(inside, other.label, one.label))
    assert torch.equal(mixed.image, torch.where(inside, other.image, one.image))
    pasted = CopyPaste((0, 3)).apply(one, other)
    inside = (other.label == 0) | (other.label == 3)
    assert torch.equal(pasted.label, torch.where(inside, other.label, one.label))
    assert torch.equal(pasted.image, torch.where(inside, other.image, one.image))


# ---- sampling -----------------------------------------------------------------------------------


def test_crops_keep_to_the_largest_share_where_they_can():
    def worst(stream):
        counts = [stream[k].label.flatten().bincount(minlength=256)[:255] for k in range(40)]
        return [(c.max() / c.sum()).item() for c in counts]

    plain = worst(samples(scales=(1.0,)))
    assert sum(share <= 0.8 for share in plain) < 30
    bounded = worst(samples(scales=(1.0,), max_class_share=0.8))
    # 20 of 48 places will do: eleven that do not are drawn three times in a thousand
    assert sum(share <= 0.8 for share in bounded) >= 39


def test_rare_classes_come_as_often_as_their_chances_say_and_are_shown():
    stream = samples(rare_class_sampling=1.0, rare_class_temperature=10.0)
    chosen = [stream[k] for k in range(60)]
    with_spot = [sample for sample in chosen if (sample.label == 2).any()]
    assert len(with_spot) >= 15  # a third of them; 1 of 6 images has the spot, few of its crops
    assert {sample.name for sample in with_spot} == {"5"}
    plain = samples()
    assert sum((plain[k].label == 2).any().item() for k in range(60)) <= 6
    rare = RareClasses(class_counts(Scenes()), 0.1)
    shares = class_counts(Scenes()).sum(0) / class_counts(Scenes()).sum()
    expected = np.exp((1 - shares[:3]) / 0.1) / np.exp((1 - shares[:3]) / 0.1).sum()
    np.testing.assert_allclose(rare.chances, [*expected, 0])


def test_copy_paste_brings_its_class_and_names_what_is_wrong():
    stream = samples(copy_paste=("class 2",), chance=1.0)
    assert all((stream[k].label == 2).any() for k in range(10))
    with pytest.raises(HfgdError, match="copy_paste: there is no class named 'clas 2'; did you"):
        samples(copy_paste=("clas 2",))
    with pytest.raises(HfgdError, match="copy_paste: no image has class 3"):
        samples(copy_paste=("class 3",))


def test_mistakes_in_a_recipe_are_one_sentence(folder):
    for setting in ("rotation=200", "jpeg=96", "cutmix=1.5", "max_class_share=0", "blurr=1"):
        with pytest.raises(HfgdError, match=rf"augment\.{setting.split('=')[0]}"):
            recipe(folder, **parse_overrides([f"augment.{setting}"]))


@pytest.mark.slow
def test_a_run_keeps_its_counts_and_goes_on_with_them(folder, tmp_path, monkeypatch):
    spec = {"rare_class_sampling": 0.5, "copy_paste": ["c"], "cutmix": 0.5, "rotation": 10}
    changes = {f"augment.{key}": value for key, value in spec.items()}
    fit(recipe(folder, **changes, **{"train.iterations": 2}), tmp_path / "run")
    kept = np.load(tmp_path / "run/class-counts.npy")
    for i in range(3):
        raw = np.array(Image.open(folder / f"labels/train/train{i}.png"))
        assert kept[i].tolist() == [(raw == value).sum() for value in (10, 20, 30)]
    monkeypatch.setattr("hfgd.training.fit.class_counts", None)  # would fail if it were called
    fit(None, tmp_path / "run", resume=True)


def test_the_sheet_is_drawn(folder, run, tmp_path):
    out = tmp_path / "deep/sheet.png"
    settings = ["--set", "augment.cutmix=1", "--set", "augment.crop=[33,33]"]
    words = ["data", "info", folder, "--augment", "sfpn_mobilenetv2", *settings, "--out", out]
    code, shown, _ = run(*words)
    assert code == 0
    assert str(out) in shown
    assert "cutmix=1.0" in shown
    with Image.open(out) as sheet:
        assert sheet.width == 6 * 220
        assert len(set(sheet.crop((230, 4, 400, 150)).get_flattened_data())) > 100
    code, _, errors = run("data", "info", "--augment", "sfpn_mobilenetv2")
    assert code == 2
    assert "--augment needs data" in errors


def test_albumentations_is_never_imported():
    files = Path(hfgd.__file__).parent.rglob("*.py")
    assert not [path for path in files if "albumentations" in path.read_text(encoding="utf-8")]
