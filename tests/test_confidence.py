"""Confidence: a temperature that is found again, errors by hand, and what predict writes of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from conftest import TOYS, toy
from hfgd.checkpoint import save_model
from hfgd.data.classes import IGNORE, ClassSet
from hfgd.errors import HfgdError
from hfgd.inference import temperature as fitting
from hfgd.inference.temperature import Histograms, with_confidence
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.model import ModelSpec
from hfgd.model.build import build


def scores_and_labels(truth_temperature, size=(48, 64), classes=4, seed=0):
    """Scores (H, W, K), and labels drawn from their softmax at a temperature; one row is void."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 4, (*size, classes))
    shares = softmax(scores / truth_temperature, axis=-1).cumsum(-1)
    labels = (rng.uniform(size=(*size, 1)) > shares).sum(-1).clip(max=classes - 1).astype(np.uint8)
    labels[0] = IGNORE
    return torch.tensor(scores, dtype=torch.float32), torch.from_numpy(labels)


def watched(parts, rows_at_once=7):
    """Histograms of images that come in strips."""
    counts = Histograms()
    for half, (scores, label) in enumerate(parts):
        count = counts.counting(label, half)
        for start in range(0, len(scores), rows_at_once):
            stop = min(start + rows_at_once, len(scores))
            count(slice(start, stop), scores[start:stop])
    return counts


def error_by_hand(*parts):
    """Expected calibration error over 15 bins of (scores, labels, temperature), pixel by pixel."""
    bins = [[] for _ in range(15)]
    for scores, labels, temperature in parts:
        for p, y in zip(softmax(scores / temperature, axis=-1), labels, strict=True):
            bins[min(14, int(p.max() * 15))].append((p.argmax() == y, p.max()))
    gaps = [abs(np.sum([right - sure for right, sure in group])) for group in bins if group]
    return sum(gaps) / sum(map(len, bins))


def test_the_temperature_and_the_errors_are_those_of_a_plain_computation():
    parts = [scores_and_labels(2.0, seed=seed) for seed in (0, 1)]
    fitted = watched(parts).fitted()
    flat = [
        (s.numpy().astype(np.float64)[y.numpy() != IGNORE], y.numpy()[y.numpy() != IGNORE])
        for s, y in parts
    ]
    scores, labels = (np.concatenate(side) for side in zip(*flat, strict=True))

    def loss(temperature):
        return -log_softmax(scores / temperature, axis=-1)[range(len(labels)), labels].mean()

    best = minimize_scalar(loss, bounds=(0.3, 16), method="bounded").x
    assert abs(np.log2(fitted.temperature / best)) <= 1 / 16 + 1e-3  # half a step of the grid
    assert 1.8 < best < 2.2
    assert fitted.pixels == len(labels)
    assert fitted.before == pytest.approx(error_by_hand((scores, labels, 1.0)), abs=1e-5)
    # both halves are alike: each one's own temperature is the other's too
    after = error_by_hand((scores, labels, fitted.temperature))
    assert fitted.after == pytest.approx(after, abs=1e-5)
    assert fitted.after < fitted.before / 3


def test_the_error_afterwards_is_with_the_other_halfs_temperature():
    parts = [scores_and_labels(temperature, seed=7) for temperature in (1.0, 4.0)]
    fitted = watched(parts).fitted()
    crossed = []
    for (scores, label), temperature in zip(parts, (4.0, 1.0), strict=True):
        valid = label.numpy() != IGNORE
        crossed.append((scores.numpy()[valid], label.numpy()[valid], temperature))
    assert fitted.after == pytest.approx(error_by_hand(*crossed), abs=0.02)
    assert fitted.after > 0.1  # not what a temperature of its own would give


def test_nothing_labelled_fits_no_temperature():
    with pytest.raises(HfgdError, match="needs pixels with labels"):
        Histograms().fitted()


def test_confidence_is_the_best_classs_probability():
    scores, _ = scores_and_labels(1.0)
    labels, confidence = with_confidence(1.7, 0.6)(slice(0, 48), scores).unbind(-1)
    expected = softmax(scores.numpy() / 1.7, axis=-1).max(-1)
    np.testing.assert_allclose(confidence.numpy(), 255 * expected, atol=0.51)
    best = scores.argmax(-1).numpy()
    np.testing.assert_array_equal(labels.numpy(), np.where(expected < 0.6, IGNORE, best))


@pytest.fixture
def model(tmp_path):
    recipe = ModelSpec(backbone=TOYS["test_resnet"], width=16)
    save_model(build(recipe, ClassSet.of(["a", "b", "c"])), tmp_path / "model")
    return tmp_path / "model"


def test_eval_fits_and_predict_uses_it(run, model, folder, tmp_path):
    images, out = folder / "images/val", tmp_path / "plain"
    code, _, err = run("predict", model, images, "--out", out, "--confidence")
    assert code == 0
    assert err.count("uncalibrated") == 1
    words = ("--data", folder, "--calibrate", "--workers", 0, "--out", tmp_path / "r")
    code, said, err = run("eval", model, *words)
    assert code == 0, err
    assert "calibration error" in said
    kept = json.loads((model / "temperature.json").read_text())
    report = json.loads((tmp_path / "r/report.json").read_text())["calibration"]
    assert kept["temperature"] == report["temperature"] != 1
    assert f"temperature {kept['temperature']:.3f}" in (tmp_path / "r/report.md").read_text()

    code, _, err = run("predict", model, images, "--out", out, "--confidence")
    assert code == 2  # the confidences there are others
    assert "of other settings" in err
    out = tmp_path / "out"
    # not auto: that is bf16 where the CPU has it
    words = ("--confidence", "--min-confidence", 0.36, "--precision", "fp32")
    code, _, err = run("predict", model, images, "--out", out, *words)
    assert code == 0
    assert "uncalibrated" not in err
    labeller = NetworkLabeller(load(model))
    for path in sorted(images.iterdir()):
        image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
        scores = labeller.reduced(image, lambda rows, scores: scores.clone())
        expected = (scores / kept["temperature"]).softmax(-1).amax(-1).numpy()
        written = np.asarray(Image.open(out / "confidence" / path.name))
        assert written.dtype == np.uint8
        np.testing.assert_allclose(written, 255 * expected, atol=0.51)
        void = np.asarray(Image.open(out / "labels" / path.name)) == IGNORE
        np.testing.assert_array_equal(void, expected < 0.36)
    (out / "confidence" / path.name).unlink()  # it belongs to what is done
    code, said, _ = run("predict", model, images, "--out", out, *words)
    assert "1 image labelled (1 had been before)" in said


def load(path):
    import hfgd

    return hfgd.load(path)


def test_a_temperature_of_other_weights_or_protocol_is_none(model, capsys):
    from hfgd.inference.labeller import InferenceConfig, open_labeller

    labeller = open_labeller(str(model), InferenceConfig())
    fitted = fitting.TemperatureFit(2.0, 0.1, 0.01, 5)
    fitting.save_temperature(str(model), labeller, fitted, "data/val")
    assert fitting.read_temperature(str(model), labeller) == 2.0
    flipped = open_labeller(str(model), InferenceConfig("mf"))
    assert fitting.read_temperature(str(model), flipped) == 1.0
    assert "under another protocol" in capsys.readouterr().err
    save_model(toy(3), Path(model))
    assert fitting.read_temperature(str(model), labeller) == 1.0
    assert "for other weights" in capsys.readouterr().err
    (model / "temperature.json").write_text("{")
    with pytest.raises(HfgdError, match="is damaged"):
        fitting.read_temperature(str(model), labeller)


def test_void_pixels_and_a_test_server_do_not_go_together(run, model, folder, tmp_path):
    words = ("--min-confidence", 0.5, "--server", "cityscapes", "--out", tmp_path / "out")
    code, _, err = run("predict", model, folder / "images/val", *words)
    assert code == 2
    assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_file_without_logits_has_no_confidence(run, model, folder, tmp_path):
    pytest.importorskip("onnxscript")
    for name, more in (("labels", []), ("scores", ["--logits"])):
        file = tmp_path / f"{name}.onnx"
        assert run("export", model, "--out", file, "--size", 40, 50, *more)[0] == 0
        words = ("--confidence", "--out", tmp_path / name)
        code, _, err = run("predict", file, folder / "images/val", *words)
        assert code == (0 if more else 2), err
        assert ("export it with --logits" in err) == (not more)
    confidence = np.asarray(Image.open(tmp_path / "scores/confidence/val0.png"))
    out = tmp_path / "network"
    run(
        "predict", model, folder / "images/val", "--confidence", "--precision", "fp32", "--out", out
    )
    expected = np.asarray(Image.open(out / "confidence/val0.png")).astype(int)
    assert abs(confidence - expected).max() <= 1
