"""Scores against sets of pixels; reports and pictures."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import toy
from hfgd.data.classes import IGNORE, ClassSet
from hfgd.data.dataset import Part
from hfgd.data.scenes import ScenesDataset
from hfgd.errors import HfgdError
from hfgd.evaluation.plots import class_bars, confusion, curves, label_panels
from hfgd.evaluation.report import Report
from hfgd.evaluation.scores import Scores
from hfgd.evaluation.scoring import Tally, evaluate
from hfgd.inference.torch_labeller import NetworkLabeller


def by_sets(pairs, count):
    """IoU of each class from sets of (image, pixel) places."""
    ious = []
    for k in range(count):
        truth, guess = set(), set()
        for i, (prediction, label) in enumerate(pairs):
            for place in np.ndindex(label.shape):
                if label[place] != IGNORE:
                    truth |= {(i, place)} if label[place] == k else set()
                    guess |= {(i, place)} if prediction[place] == k else set()
        union = truth | guess
        ious.append(len(truth & guess) / len(union) if union else math.nan)
    return ious


def random_maps(rng, absent=(4,)):
    pairs = []
    for _ in range(4):
        shape = (int(rng.integers(3, 9)), int(rng.integers(3, 9)))
        choices = [k for k in range(6) if k not in absent]
        label = rng.choice([*choices, IGNORE], shape)
        pairs.append((rng.choice(choices, shape), label))
    return pairs


def count(pairs, classes=6):
    tally = Tally(classes, boundary=None)
    for i, (prediction, label) in enumerate(pairs):
        tally.update(torch.tensor(prediction), torch.tensor(label), f"image {i}")
    return tally.scores(ClassSet.numbered(classes), len(pairs))


@pytest.mark.parametrize("seed", range(5))
def test_miou_equals_sets_of_pixels(seed):
    pairs = random_maps(np.random.default_rng(seed))
    scores, expected = count(pairs), by_sets(pairs, 6)
    np.testing.assert_allclose(scores.iou, expected)
    assert scores.miou == pytest.approx(np.nanmean(expected))
    assert scores.absent == ["class 4"]


def test_accuracies_and_f1_by_hand():
    scores = Scores(ClassSet.numbered(3), np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]]))
    assert scores.accuracy[:2].tolist() == [6 / 8, 3 / 4]
    assert scores.precision[:2].tolist() == [6 / 7, 3 / 5]
    assert scores.f1[:2].tolist() == [12 / 15, 6 / 9]
    assert scores.macc == pytest.approx(0.75)
    assert scores.aacc == pytest.approx(9 / 12)
    assert math.isnan(scores.accuracy[2])


def test_a_class_that_is_only_predicted_counts_as_zero_iou():
    scores = Scores(ClassSet.numbered(2), np.array([[3, 1], [0, 0]]))
    assert scores.iou.tolist() == [0.75, 0.0]
    assert scores.macc == 0.75  # no label pixel: no accuracy


def test_nothing_labelled_gives_no_number():
    scores = Scores(ClassSet.numbered(2), np.zeros((2, 2), dtype=np.int64))
    assert all(math.isnan(value) for value in scores.summary().values())


def test_evaluate_counts_at_the_labels_own_size():
    dataset = ScenesDataset("val", 3, size=(45, 70))
    model = toy(classes=9).train()
    object.__setattr__(model, "classes", dataset.classes)
    scores = evaluate(NetworkLabeller(model), dataset)
    assert model.training
    expected = torch.zeros(9, 9, dtype=torch.int64)
    for i in range(3):
        image, label, _ = dataset[i]
        guess = model.predict(image.permute(1, 2, 0).numpy()).labels
        for t, p in zip(label.flatten().tolist(), guess.flatten().tolist(), strict=True):
            if t != IGNORE:
                expected[t, p] += 1
    assert np.array_equal(scores.matrix, expected.numpy())


def test_other_classes_are_refused():
    with pytest.raises(HfgdError, match="knows 5 classes and 'scenes/val' has 9"):
        evaluate(NetworkLabeller(toy(5)), ScenesDataset("val", 1))
    with pytest.raises(HfgdError, match="class 0 is 'class 0' for the model and 'sky'"):
        evaluate(NetworkLabeller(toy(9)), ScenesDataset("val", 1))


def test_part_spreads_over_the_set():
    part = Part(ScenesDataset("val", 100), 4)
    assert [int(part[i].name) - 1_000_000 for i in range(4)] == [12, 37, 62, 87]


def test_report_says_percent_to_people_and_fractions_to_programs(tmp_path):
    scores = Scores(ClassSet.of(["a", "b", "c"]), np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]]))
    report = Report("model", "data/val", 2, scores, facts={"checkpoint": "last"})
    report.save(tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["mIoU"] == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert content["classes"][2]["IoU"] is None
    assert content["absent"] == ["c"]
    assert content["protocol"]
    text = (tmp_path / "report.md").read_text()
    assert "mIoU 58.33" in text
    assert "| a | 66.67 | 75.00 | 80.00 | 8 |" in text
    assert "Absent" in text


def test_a_class_name_stays_in_its_cell():
    scores = Scores(ClassSet.of(["a|b", "c"]), np.array([[1, 0], [0, 1]]))
    assert "| a\\|b | 100.00 |" in Report("model", "data/val", 1, scores).markdown()


def test_pictures_are_drawn(tmp_path):
    dataset = ScenesDataset("val", 4, size=(48, 64))
    model = toy(9)
    object.__setattr__(model, "classes", dataset.classes)
    labeller = NetworkLabeller(model)
    scores = evaluate(labeller, dataset)
    confusion(scores, tmp_path / "confusion.png")
    class_bars(scores, tmp_path / "bars.png")
    (tmp_path / "train.csv").write_text("iteration,lr,loss,fine\n1,0.1,2,2\n2,0.1,1,1\n")
    curves(tmp_path / "train.csv", tmp_path / "none.csv", tmp_path / "curves.png")
    label_panels({"one": labeller, "two": labeller}, dataset, 2, tmp_path / "panels.png")
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 200
            assert len(np.unique(np.array(picture.convert("L")))) > 10  # not blank
