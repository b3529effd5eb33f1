"""Other kinds of file than ONNX, and 8-bit ones: the same labels, the same verbs."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import toy
from hfgd.errors import HfgdError
from hfgd.evaluation.evaluate_model import EvalConfig, evaluate_model
from hfgd.export import check
from hfgd.export.int8 import CalibrationImages, inputs
from hfgd.export.runtime import ExportedModel, read_facts
from hfgd.export.sessions import open_session
from hfgd.export.write import export_model
from hfgd.inference.labeller import InferenceConfig, open_labeller
from hfgd.model.config import GUIDANCE


def whole(classes=5, **model):
    torch.manual_seed(0)
    parts = {"encoder": "cae", "upsampler": "u_sfpn", "guidance": GUIDANCE, "axial_attention": True}
    model = toy(classes=classes, **parts | model).eval()
    model.config = model.config.model_copy(update={"crop": (97, 131)})
    return model


def images(seeds=3):
    for seed, size in enumerate([(61, 90), (40, 130), (97, 131)][:seeds]):
        yield check.noise(size, seed)[0].permute(1, 2, 0).numpy()


@pytest.fixture
def data(tmp_path):
    """A data folder of noise, with labels."""
    root = tmp_path / "data"
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            pixels = check.noise((64, 96), seed=10 * count + i)[0].permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(root / f"images/{split}/{i}.png")
            label = Image.fromarray((pixels[..., 0] // 52).astype(np.uint8))
            label.save(root / f"labels/{split}/{i}.png")
    (root / "data.yaml").write_text("classes: [class 0, class 1, class 2, class 3, class 4]\n")
    return root


def sound(model, file, checked, images):
    """A file beside its network: labels, what it says of itself, and what a cut one is answered."""
    assert all(c.equal >= check.ENOUGH and c.logits < 1e-3 for c in checked)
    exported = ExportedModel(file, code=file.parent)
    for image in images:
        assert (exported(image) == model.predict(image).labels).mean() >= check.ENOUGH
    facts = read_facts(file)
    assert facts.classes == model.classes.names
    assert facts.class_set == model.classes
    for part in file.parent.iterdir():
        part.write_bytes(part.read_bytes()[:3000])
    with pytest.raises(HfgdError, match="truncated or no"):
        ExportedModel(file, code=file.parent)


def labels_alone(file, size=(33, 33)):
    with pytest.raises(HfgdError, match="export it with --logits"):
        open_labeller(str(file), InferenceConfig(code=file.parent)).reduced(
            torch.zeros(3, *size, dtype=torch.uint8), max
        )


@pytest.mark.slow
def test_openvinos_labels_are_the_networks(tmp_path):
    model, file = whole(), tmp_path / "below" / "model.xml"
    checked = model.export(file)
    assert len(checked) == 7
    assert {path.name for path in file.parent.iterdir()} == {"model.xml", "model.bin"}
    labels_alone(file)
    sound(model, file, checked, images())


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, (61, 90)])
def test_aotinductors_labels_are_the_networks(size, tmp_path):
    """Of any size, with logits, and of one size, without: its compiler takes minutes for any size,
    and does labels alone after the whole."""
    model, file = whole(encoder="identity", upsampler="sfpn"), tmp_path / "below" / "model.pt2"
    checked = model.export(file, size=size, logits=size is None)
    assert len(checked) == (3 if size else 7)
    assert [path.name for path in file.parent.iterdir()] == ["model.pt2"]
    if size:
        labels_alone(file, size)
    sound(model, file, checked, images(1 if size else 3))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_int8_is_calibrated_told_and_not_scored_on_what_it_saw(suffix, data, tmp_path):
    model = whole()
    file = tmp_path / f"model{suffix}"
    calibration = CalibrationImages.of(str(data), 3)
    assert (calibration.title, len(calibration.images)) == ("data/train", 3)
    *_, last = export_model(model, file, int8=calibration)
    assert (last.what, last.logits) == ("int8", None)
    assert 0.5 < last.equal <= 1
    quantised = b"QuantizeLinear" if suffix == ".onnx" else b"FakeQuantize"
    assert quantised in file.read_bytes()
    facts = read_facts(file)
    assert (facts.precision, facts.calibrated_on) == ("int8", "data/train")
    report, _ = evaluate_model(
        str(file), EvalConfig(str(data), "val"), InferenceConfig(), tmp_path / "eval"
    )
    assert report.facts["precision"] == "int8"
    with pytest.raises(HfgdError, match="calibrated on 'data/train'"):
        evaluate_model(
            str(file), EvalConfig(str(data), "train"), InferenceConfig(), tmp_path / "eval"
        )


def test_int8_is_refused_where_it_makes_no_sense(data, tmp_path):
    with pytest.raises(HfgdError, match="not scored, and 'val' is"):
        CalibrationImages.of(str(data), 3, split="val")
    with pytest.raises(HfgdError, match="pt2 holds fp32"):
        export_model(toy(), tmp_path / "x.pt2", int8=CalibrationImages.of(str(data), 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.xml", b"<net/>", "a.bin', which is not beside"),
        ("a.pt2", b"PK", "truncated or no AOTInductor package"),
        ("a.tflite", b"", "no exported file: those end in .onnx, .xml, .pt2"),
    ],
)
def test_one_sentence_for_each_unusable_file(name, content, says, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HfgdError, match=says.replace(".", r"\.")):
        open_session(tmp_path / name, code=tmp_path)


@pytest.mark.parametrize(("runtime", "name"), [("openvino", "a.xml"), ("torch", "a.pt2")])
def test_without_the_runtime(runtime, name, tmp_path):
    import zipfile

    (tmp_path / "a.bin").touch()
    with zipfile.ZipFile(tmp_path / name, "w") as package:
        package.writestr("a/extra/hfgd.json", json.dumps({}))
    code = (
        f"import sys; sys.modules[{runtime!r}] = None\n"
        "from pathlib import Path; from hfgd.export.sessions import open_session\n"
        f"open_session(Path({str(Path(tmp_path / name))!r}), code={str(tmp_path)!r})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"{runtime}, which is not installed; pip install 'hfgd[" in found.stderr


def test_few_of_the_images_lie_far_apart(data):
    images = CalibrationImages.of(str(data), 4).images
    taken = list(inputs(SimpleNamespace(size=None, input="uint8"), images, 2))
    wanted = [images[i].image[None].numpy() for i in (0, 2)]
    assert all(np.array_equal(*pair) for pair in zip(taken, wanted, strict=True))
    assert len(list(inputs(SimpleNamespace(size=None, input="uint8"), images, 9))) == 4
