"""Pictures made while scoring, and what report.html says of them."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import TOYS, toy
from hfgd.checkpoint import save_model
from hfgd.data.classes import ClassSet
from hfgd.data.scenes import ScenesDataset
from hfgd.evaluation.evaluate_model import EvalConfig, evaluate_model
from hfgd.evaluation.page import thumbnails as small_pictures
from hfgd.evaluation.page.gallery import Shown
from hfgd.evaluation.page.report_page import report_page, run_curves
from hfgd.evaluation.page.sections import Gallery, GalleryItem, Layer, Plot, Table
from hfgd.evaluation.page.thumbnails import Thumbnails, picture_file, pictures_in
from hfgd.evaluation.page.write_page import write_page
from hfgd.evaluation.report import Report
from hfgd.evaluation.scoring import evaluate
from hfgd.inference.labeller import InferenceConfig
from hfgd.inference.protocol import find_protocol
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.model import ModelSpec
from hfgd.model.build import build
from processes import finished

SIZE = (45, 70)


def labeller_of(dataset, protocol="ss"):
    model = toy(classes=9)
    object.__setattr__(model, "classes", dataset.classes)
    return NetworkLabeller(model, find_protocol(protocol, (33, 33)))


class LabelsAlone:
    """As a file that was exported without logits."""

    gives_scores, calibrated_on = False, None

    def __init__(self, labeller):
        self.classes, self.labels = labeller.classes, labeller.labels


def sections(path):
    """What a page holds: kind → its data, as the browser reads it."""
    text = path.read_text()
    found = re.findall(
        r'data-kind="(\w+)".*?<script type="application/json">(.*?)</script>', text, re.DOTALL
    )
    return {kind: json.loads(data) for kind, data in found}


@pytest.mark.parametrize("protocol", ["ss", "mf", "slide"])
def test_one_pass_gives_the_same_labels_and_the_softmax_of_the_best(tmp_path, protocol):
    dataset = ScenesDataset("val", 1, size=(45, 450))  # wider than a thumbnail
    labeller, (image, _, _) = labeller_of(dataset, protocol), dataset[0]
    thumbnails = Thumbnails(tmp_path)
    labels = thumbnails.labels(labeller, image)
    assert torch.equal(labels, labeller.labels(image))
    likely = labeller.reduced(image, lambda rows, scores: scores.softmax(-1).amax(-1))
    height, width = small_pictures.small_size(45, 450)
    expected = likely[small_pictures.picks(45, height)][:, small_pictures.picks(450, width)]
    assert (height, width) == (40, 400)
    assert (thumbnails._sure / 255 - expected).abs().max() < 1 / 254
    thumbnails.finish()


def test_pictures_hold_ids_and_shrink_to_the_middle_pixels():
    ids = np.random.default_rng(0).integers(0, 256, (600, 801)).astype(np.uint8)
    small = small_pictures.pixels_of(small_pictures.label_picture(ids))
    height, width = small_pictures.small_size(600, 801)
    expected = [
        [ids[int((y + 0.5) * 600 / height), int((x + 0.5) * 801 / width)] for x in range(width)]
        for y in range(height)
    ]
    assert (small == np.array(expected)).all()
    tall = small_pictures.photo(np.zeros((1000, 10, 3), np.uint8))
    assert small_pictures.pixels_of(tall).shape == (400, 4)


def page_of(dataset, labeller, folder, count):
    with pictures_in(folder) as place:
        thumbnails = Thumbnails(place, photos=len(dataset) <= count)
        scores = evaluate(labeller, dataset, thumbnails=thumbnails)
        report = Report("toy", dataset.title, len(dataset), scores)
        report_page(report, Shown({"toy": scores}, dataset, place, count), folder, None)
    return scores, sections(folder / "report.html")


def test_the_page_says_what_the_scores_say(tmp_path):
    dataset = ScenesDataset("val", 3, size=SIZE)
    labeller = labeller_of(dataset)
    scores, page = page_of(dataset, labeller, tmp_path, 500)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]  # no pictures are left behind
    items = page["gallery"]["items"]
    assert [item["name"] for item in items] == scores.images.names
    np.testing.assert_allclose([i["values"]["score"] for i in items], scores.images.miou())
    for index, item in enumerate(items):
        image, label, _ = dataset[index]
        guess = labeller.labels(image)
        scored = label != 255
        wrong = (guess != label)[scored].double().mean().item()
        assert item["values"]["disagreement"] == pytest.approx(wrong)
        found = set(label[scored].tolist()) | set(guess[scored].tolist())
        assert set(item["classes"]) == {str(k) for k in found}
        assert set(item["layers"]) == {"image", "truth", "prediction/0", "confidence/0"}
    assert page["matrix"]["matrices"][0]["counts"] == scores.matrix.tolist()
    absent = dict(zip(scores.classes.names, np.isnan(scores.iou), strict=True))
    assert {row[0]: row[1] is None for row in page["table"]["rows"]} == absent


def test_labels_alone_leave_the_confidence_out(tmp_path):
    dataset = ScenesDataset("val", 2, size=SIZE)
    _, page = page_of(dataset, LabelsAlone(labeller_of(dataset)), tmp_path, 500)
    keys = [layer["key"] for layer in page["gallery"]["layers"]]
    assert keys == ["truth", "prediction", "error"]
    assert "confidence" not in [sort["key"] for sort in page["gallery"]["sorts"]]


def test_of_many_images_the_worst_and_some_others_are_shown(tmp_path):
    dataset = ScenesDataset("val", 8, size=SIZE)
    scores, page = page_of(dataset, labeller_of(dataset), tmp_path, 4)
    names = [item["name"] for item in page["gallery"]["items"]]
    worst = np.argsort(scores.images.miou(), kind="stable")[:2]
    assert len(set(names)) == 4
    assert {scores.images.names[i] for i in worst} <= set(names)
    assert "4 of 8 images: 2 with the lowest mIoU" in (tmp_path / "report.html").read_text()
    _, page = page_of(dataset, labeller_of(dataset), tmp_path, 0)
    assert "gallery" not in page


def test_a_picture_that_cannot_be_written_is_told(tmp_path):
    dataset = ScenesDataset("val", 1, size=SIZE)
    thumbnails = Thumbnails(tmp_path / "pictures")
    picture_file(tmp_path / "pictures", 0, "image").mkdir()
    with pytest.raises(IsADirectoryError):
        evaluate(labeller_of(dataset), dataset, thumbnails=thumbnails)


def test_nothing_comes_from_outside_and_names_stay_text(tmp_path):
    name = "</script><img src=x onerror=alert(1)>"
    item = GalleryItem(name, (1, 1), {"image": small_pictures.photo(np.zeros((1, 1, 3), np.uint8))})
    layers = [Layer("truth", "truth", "labels")]
    gallery = Gallery(name, ClassSet.of([name]), layers, [item])
    table = Table(name, [name], [[float("nan")]])
    write_page(tmp_path / "page.html", name, [gallery, table], {name: name}, {name: name})
    text = (tmp_path / "page.html").read_text()
    assert "<img src=x" not in text
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", text)
    assert "default-src 'none'" in text
    page = sections(tmp_path / "page.html")
    assert page["gallery"]["items"][0]["name"] == name
    assert page["table"]["rows"] == [[None]]


def test_curves_of_runs_lie_over_one_axis(tmp_path):
    for run, rows in {"a": "10,0.5\n20,0.6\n", "b": "15,0.25\n"}.items():
        (tmp_path / run / "logs").mkdir(parents=True)
        (tmp_path / run / "logs" / "val.csv").write_text("iteration,mIoU\n" + rows)
    (curves,) = run_curves({"a": tmp_path / "a", "b": tmp_path / "b"})
    expected = {"mIoU of a": [50.0, None, 60.0], "mIoU of b": [None, 25.0, None]}
    assert curves.plots == [Plot("validation, percent", "iteration", [10, 15, 20], expected)]
    assert run_curves({"none": tmp_path}) == []


@pytest.mark.slow
def test_two_processes_make_one_page(tmp_path):
    spec = ModelSpec(backbone=TOYS["test_resnet"], width=32)
    build(spec, ScenesDataset("val", 1).classes).save(tmp_path / "model")
    command = ["hfgd", "eval", tmp_path / "model", "--data", "scenes", "--limit", 5]
    finished([*command, "--out", tmp_path / "out", "--devices", 2])
    page = sections(tmp_path / "out" / "report.html")
    per_image = json.loads((tmp_path / "out" / "report.json").read_text())["per image"]
    scores = {item["name"]: item["values"]["score"] for item in page["gallery"]["items"]}
    assert scores == pytest.approx(per_image)
    with Image.open(tmp_path / "out" / "panels.png"):
        assert not (tmp_path / "out" / ".pictures").exists()


@pytest.mark.parametrize("gallery", [0, 5])
def test_an_out_that_cannot_be_is_told_before_anything_is_scored(tmp_path, monkeypatch, gallery):
    monkeypatch.setattr(
        "hfgd.evaluation.evaluate_model.scored", lambda *_, **__: pytest.fail("scored")
    )
    spec = ModelSpec(backbone=TOYS["test_resnet"], width=32)
    save_model(build(spec, ScenesDataset("val", 1).classes), tmp_path / "model")
    (tmp_path / "file").touch()
    what = EvalConfig("scenes", gallery=gallery)
    with pytest.raises(FileExistsError, match="file"):
        evaluate_model(
            str(tmp_path / "model"), what, InferenceConfig(device="cpu"), tmp_path / "file"
        )
