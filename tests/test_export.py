"""The exported file is the network: checked where it is made, and used as a model."""

import builtins
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import hfgd
from conftest import TOYS, toy
from hfgd.checkpoint import save_model
from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.export import check
from hfgd.export import onnx as exporter
from hfgd.export.int8 import CalibrationImages
from hfgd.export.metadata import Facts
from hfgd.export.runtime import ExportedModel, read_facts
from hfgd.export.wrapper import ExportWrapper
from hfgd.export.write import export_model
from hfgd.inference.labeller import InferenceConfig, open_labeller
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.model import ModelSpec, SegOutput
from hfgd.model.build import build
from hfgd.model.config import GUIDANCE, NO_GUIDANCE
from hfgd.model.encoders import ENCODERS
from hfgd.model.upsamplers import UPSAMPLERS
from hfgd.types import Frame, Grid

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model folder of a whole HFGD, its file, and what the check said."""
    torch.manual_seed(0)
    spec = ModelSpec(
        backbone=TOYS["test_resnet"],
        encoder="cae",
        upsampler="u_sfpn",
        stride=2,
        width=16,
        guidance=GUIDANCE,
        axial_attention=True,
    )
    model = build(spec, ClassSet.of(["a", "b", "ü"]))
    folder = tmp_path_factory.mktemp("exported") / "run"
    save_model(model, folder, {"licence": "CC-BY-4.0"})
    model = small(hfgd.load(folder))
    return folder, model.export(folder / "model.onnx")


def small(model):
    """With a small training crop, the exact size of the check."""
    model.config = model.config.model_copy(update={"crop": (97, 131)})
    return model


def pixels(height=61, width=90, seed=3):
    return check.noise((height, width), seed)[0].permute(1, 2, 0).numpy()


def changed(file, target, **properties):
    """A copy of the file with other properties; None takes one away."""
    model = onnx.load(file)
    kept = {p.key: p.value for p in model.metadata_props} | properties
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {k: v for k, v in kept.items() if v is not None})
    onnx.save(model, target)
    return target


# ---- the file ------------------------------------------------------------------------------------


def test_every_size_is_checked(exported):
    _, checked = exported
    assert [c.what for c in checked] == [
        "traced",
        "exact",
        "inexact",
        "smallest",
        "tall",
        "wide",
        "two",
    ]
    assert all(c.equal >= check.ENOUGH for c in checked)
    assert all(0 <= c.logits < 1e-3 for c in checked)
    sizes = {c.what: c.size for c in checked}
    assert sizes["exact"] == Grid.CORNERS.padded(sizes["exact"])
    assert sizes["inexact"] != Grid.CORNERS.padded(sizes["inexact"])
    assert sizes["smallest"] == (1, 1)
    assert re.search(r"61 +100\.0000 % of labels equal", str(checked[2]))


@pytest.mark.parametrize("size", [(61, 90), (1, 1), (5, 140), (33, 65), (100, 31)])
def test_labels_are_those_of_the_network(exported, size):
    folder, _ = exported
    image = pixels(*size)
    theirs = hfgd.load(folder).predict(image).labels
    ours = ExportedModel(folder / "model.onnx")(image)
    assert ours.dtype == np.uint8
    assert ours.shape == size
    assert (ours == theirs).mean() >= 0.9999


def test_a_batch_is_its_images(exported):
    model = ExportedModel(exported[0] / "model.onnx")
    images = [pixels(40, 50, seed) for seed in range(3)]
    batch = model.batch(np.stack([image.transpose(2, 0, 1) for image in images]))
    for labels, image in zip(batch, images, strict=True):
        np.testing.assert_array_equal(labels, model(image))


def test_the_file_says_what_it_is_and_nothing_of_this_machine(exported):
    folder, _ = exported
    facts = read_facts(folder / "model.onnx")
    assert facts.classes == ("a", "b", "ü")
    assert facts.class_set == hfgd.load(folder).classes
    assert (facts.grid, facts.input, facts.size, facts.smallest) == (
        Grid.CORNERS,
        "uint8",
        None,
        (1, 1),
    )
    assert facts.version == hfgd.__version__
    assert (facts.licence_of_code, facts.licence_of_weights) == ("Apache-2.0", "CC-BY-4.0")
    assert facts.mean == pytest.approx(hfgd.load(folder).mean.flatten().tolist())
    content = (folder / "model.onnx").read_bytes()
    for path in (ROOT, Path(torch.__file__).parent, folder):
        assert str(path).encode() not in content
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        "model.onnx",
        "model.safetensors",
    ]
    outputs = [output.name for output in onnx.load(folder / "model.onnx").graph.output]
    assert outputs == ["labels"]


def test_one_size_floats_and_logits(tmp_path):
    model = toy(upsampler="none").eval()
    file = tmp_path / "fixed.onnx"
    checked = model.export(file, size=(64, 96), logits=True, input="float")
    assert [c.size for c in checked] == [(64, 96)] * 3
    graph = onnx.load(file).graph
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 64, 96]
    assert [output.name for output in graph.output] == ["labels", "logits"]
    ours = ExportedModel(file)
    image = pixels(64, 96)
    assert (ours(image) == model.predict(image).labels).mean() >= 0.9999
    with pytest.raises(HfgdError, match=r"takes images of 64×96 .* only, not 65×96"):
        ours(pixels(65, 96))


# ---- the check ------------------------------------------------------------------------------------


def test_wrong_padding_is_seen_and_no_file_is_left(tmp_path, monkeypatch):
    """The real defect: a division that PyTorch rounds down and ONNX cuts. The traced size is right."""

    def wrong(self, n, multiple):
        return max(1, -(-(n - 1) // multiple)) * multiple + 1

    monkeypatch.setattr(Grid, "_padded_side", wrong)
    file = tmp_path / "model.onnx"
    file.write_bytes(b"of before")
    with pytest.raises(HfgdError, match=r"deleted: it is not the same model at the .* size"):
        toy(upsampler="none").export(file)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert file.read_bytes() == b"of before"


class Odd(hfgd.Network):
    """One of one's own, with an operation that ONNX does not have."""

    def __init__(self, odd):
        super().__init__()
        self.classes, self.grid, self.odd = ClassSet.numbered(3), Grid.CELLS, odd
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]))
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image, all_branches=None):
        x = self.conv(image)
        size = (image.shape[-2], image.shape[-1])
        logits = torch.special.bessel_j1(x) if self.odd else x
        return SegOutput(logits, None, None, None, None, Frame(size, size, self.grid))


def test_what_has_no_translation_is_refused_by_name(tmp_path):
    with pytest.raises(HfgdError, match=r"'model' cannot be exported to ONNX: .*bessel_j1"):
        Odd(True).export(tmp_path / "below" / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_network_of_ones_own(tmp_path):
    model = Odd(False)
    model.export(tmp_path / "model.onnx")
    facts = read_facts(tmp_path / "model.onnx")
    assert (facts.mean, facts.std) == (pytest.approx((0.4, 0.5, 0.6)), None)
    assert facts.licence_of_backbone == "unknown"
    image = pixels()
    ours = ExportedModel(tmp_path / "model.onnx")(image)
    np.testing.assert_array_equal(ours, model.predict(image).labels)


class Answers:
    """A session with outputs of its own."""

    def __init__(self, **outputs):
        self.outputs = outputs

    def __call__(self, images):
        return self.outputs


def pair_of(labels, logits):
    whole = ExportWrapper(toy(upsampler="none"))
    sessions = Answers(labels=labels, logits=logits), Answers(labels=labels)
    return check.ComparedPair(whole, Path("x.onnx"), *sessions)


def test_what_the_check_counts():
    whole = ExportWrapper(toy(upsampler="none"))
    with torch.no_grad():
        labels, logits = (x.numpy() for x in whole(check.noise((100, 150))))
    pair = pair_of(labels, logits + np.float32(0.5))._replace(network=whole)
    found = check.compare(pair, "inexact", (100, 150))
    assert found.equal == 1
    assert found.logits == pytest.approx(0.5, abs=1e-5)

    one, two = labels.copy(), labels.copy()
    one[0, 0, :1] += 1  # of 15000 pixels
    two[0, 0, :2] += 1
    assert check.compare(pair_of(one, logits)._replace(network=whole), "", (100, 150)).equal < 1
    with pytest.raises(HfgdError, match=r"inexact size 100×150 .*only 99\.987 % of labels"):
        check.compare(pair_of(two, logits)._replace(network=whole), "inexact", (100, 150))
    with pytest.raises(HfgdError, match="label map is 100×149"):
        check.compare(pair_of(labels[..., 1:], logits)._replace(network=whole), "", (100, 150))
    assert check.largest_difference(logits, logits * np.float32("nan")) == float("inf")


# ---- the file as a model ----------------------------------------------------------------------------


def test_the_runtime_does_not_import_torch(exported):
    code = (
        "import sys, numpy as np; from hfgd.export.runtime import ExportedModel;"
        f"m = ExportedModel({str(exported[0] / 'model.onnx')!r});"
        "print(m(np.zeros((20, 30, 3), np.uint8)).shape, len(m.classes), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(20, 30) 3 False"


def test_images_below_the_smallest_size_are_filled_with_the_mean(exported, tmp_path):
    file = changed(exported[0] / "model.onnx", tmp_path / "m.onnx", **{"hfgd.smallest": "[40, 50]"})
    model, image = ExportedModel(file), pixels(20, 70)
    padded = np.empty((40, 70, 3), np.uint8)
    padded[:] = np.rint(255 * np.array(model.facts.mean))
    padded[:20] = image
    np.testing.assert_array_equal(model(image), model(padded)[:20])


def test_one_sentence_for_each_unusable_file(exported, tmp_path):
    whole = exported[0] / "model.onnx"
    with pytest.raises(HfgdError, match=r"there is no file '.*none\.onnx'"):
        ExportedModel(tmp_path / "none.onnx")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(HfgdError, match=r"cut\.onnx' is truncated or no ONNX file"):
        ExportedModel(cut)
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    with pytest.raises(HfgdError, match=r"text\.onnx' is truncated or no ONNX file"):
        ExportedModel(text)
    foreign = tmp_path / "foreign.onnx"
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), foreign)
    with pytest.raises(HfgdError, match=r"did not write \(it does not name its classes\)"):
        ExportedModel(foreign)
    for key, value in {"classes": "[", "palette": None, "format": "2", "grid": "round"}.items():
        file = changed(whole, tmp_path / "odd.onnx", **{f"hfgd.{key}": value})
        with pytest.raises(HfgdError, match="is damaged, or of a newer hfgd"):
            ExportedModel(file)


def test_without_onnxruntime(exported, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("onnxruntime"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(HfgdError, match=r"not installed; pip install 'hfgd\[export\]'"):
        ExportedModel(exported[0] / "model.onnx")


@pytest.mark.parametrize(
    ("lacking", "file", "extra"),
    [("onnx", "model.onnx", "export"), ("openvino", "model.xml", "openvino"),
     ("nncf", "model.onnx", "openvino"), ("onnx", "page.html", "export")],
)  # fmt: skip
def test_exporting_without_its_packages(monkeypatch, capsys, tmp_path, lacking, file, extra):
    """Named at once, not after minutes of tracing."""
    monkeypatch.setattr(
        "hfgd.export.write.find_spec", lambda name: None if name == lacking else name
    )
    int8 = CalibrationImages("noise", []) if lacking == "nncf" else None
    with pytest.raises(HfgdError, match=rf"exporting needs {lacking}; pip .*'hfgd\[{extra}\]'"):
        export_model(toy(), tmp_path / "new" / file, int8=int8)
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "new").exists()


def test_facts_round_trip():
    facts = Facts(
        version="0", name="5", classes=("1", "true"), palette=((0, 1, 2), (3, 4, 5)),
        grid=Grid.CELLS, size=(3, 4), crop=(5, 6), mean=(0.1, 0.2, 0.3),
    )  # fmt: skip
    properties = facts.as_properties()
    assert all(isinstance(value, str) for value in properties.values())
    assert json.loads(properties["hfgd.classes"]) == ["1", "true"]
    assert Facts.of_properties(properties | {"other": "x"}) == facts


# ---- the same verbs ---------------------------------------------------------------------------


@pytest.fixture
def named(folder, exported):
    """The tiny data folder with the model's class names."""
    yaml = folder / "data.yaml"
    yaml.write_text("classes: [a, b, ü]\nlabel_map: {10: a, 20: b, 30: ü, 99: ignore}\n", "utf-8")
    return folder


def test_eval_scores_the_file_as_the_run(run, exported, named, tmp_path):
    shutil.copytree(exported[0], tmp_path / "run")
    shutil.copy(exported[0] / "model.onnx", tmp_path / "street.onnx")
    results = []
    for path, folder in (
        ("run", "run"),
        ("street.onnx", "street"),
    ):  # where a report goes by default
        words = ("--data", named, "--workers", 0, "--device", "cpu", "--boundary", 0)
        code, _, err = run("eval", tmp_path / path, *words)
        assert code == 0, err
        (report,) = (tmp_path / folder).glob("eval-*-val-ss/report.json")
        results.append(json.loads(report.read_text()))
    theirs, ours = results
    assert ours["model"] == theirs["model"] == "model"
    assert ours["checkpoint"] == str(tmp_path / "street.onnx")
    assert ours["mIoU"] == pytest.approx(theirs["mIoU"], abs=1e-3)
    apart = np.abs(np.array(ours["confusion"]) - theirs["confusion"]).sum()
    assert apart <= 2e-4 * np.sum(theirs["confusion"])


def test_predict_and_compare_take_the_file(run, exported, named, tmp_path):
    file = exported[0] / "model.onnx"
    image = named / "images/val/val0.png"
    code, out, err = run("predict", file, image, "--out", tmp_path / "p")
    assert code == 0, err
    assert "1 image labelled" in out
    labels = np.asarray(Image.open(tmp_path / "p/labels/val0.png"))
    np.testing.assert_array_equal(labels, ExportedModel(file)(np.asarray(Image.open(image))))
    code, _, err = run("predict", exported[0], image, "--out", tmp_path / "p")
    assert (code, "results of another model" in err) == (2, True)

    words = ("compare", exported[0], file, "--data", named, "--device", "cpu")
    code, out, err = run(*words, "--out", tmp_path / "c")
    assert code == 0, err
    assert "| mIoU |" in out
    assert "model.onnx" in out


def test_what_a_file_cannot_do_is_refused(exported):
    file = str(exported[0] / "model.onnx")
    with pytest.raises(HfgdError, match="--protocol mf needs the run folder"):
        open_labeller(file, InferenceConfig("mf"))
    with pytest.raises(HfgdError, match="--precision bf16"):
        open_labeller(file, InferenceConfig(precision="bf16"))
    with pytest.raises(HfgdError, match="holds the fine branch alone"):
        open_labeller(file, InferenceConfig(branch="guide"))


def test_a_labeller_of_tensors(exported):
    labeller = open_labeller(str(exported[0] / "model.onnx"), InferenceConfig(precision="auto"))
    image = check.noise((50, 70))[0]
    theirs = NetworkLabeller(hfgd.load(exported[0])).labels(image)
    ours = labeller.labels(image)
    assert ours.dtype == torch.uint8
    assert (ours == theirs).float().mean() >= 0.9999


def test_info_of_a_file(run, exported):
    code, out, err = run("info", exported[0] / "model.onnx")
    assert code == 0, err
    for line in ("classes +a, b, ü", "smallest +1×1", "licence of weights +CC-BY-4.0", "size +any"):
        assert re.search(line, out), line


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--size", 0, 5), "at least 1"),
        (("--size", 64, 64, "--dynamic"), "give one of them"),
        (("--out", "model.pb"), "should end in .onnx"),
    ],
)
def test_bad_words(run, exported, words, reason):
    code, _, err = run("export", exported[0], *words)
    assert code == 2
    assert reason in err
    assert err.count("\n") == 1


def test_the_snippet_runs(exported, tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (snippet,) = [s for s in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "numpy" in s]
    assert snippet.count("\n") < 15
    shutil.copy(exported[0] / "model.onnx", tmp_path / "model.onnx")
    image = pixels()
    np.save(tmp_path / "image.npy", image)
    monkeypatch.chdir(tmp_path)
    values = {}
    exec(snippet, values)
    expected = hfgd.load(exported[0]).predict(image).labels
    assert (values["labels"] == expected).mean() >= 0.9999
    shown = eval(capsys.readouterr().out)
    assert sum(shown.values()) == image.shape[0] * image.shape[1]
    assert shown.keys() <= {"a", "b", "ü"}


# ---- every composition -----------------------------------------------------------------------


def compositions():
    rows = [("test_resnet", encoder, "sfpn", 4) for encoder in ENCODERS]
    rows += [
        ("test_convnext", "identity", upsampler, 4)
        for upsampler in UPSAMPLERS
        if upsampler != "smp_dpt"
    ]
    rows += [("test_resnet", "identity", "smp_pan", 4), ("vit", "identity", "smp_dpt", 2)]
    rows += [("test_convnext", "ppm", "upernet", 4), ("test_convnext", "cae", "u_sfpn", 2)]
    rows += [("swin", "cae", "u_sfpn", 2)]
    return [pytest.param(*row, id="-".join(map(str, row))) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "encoder", "upsampler", "stride"), compositions())
def test_every_composition(backbone, encoder, upsampler, stride, tmp_path):
    guided = upsampler != "none"
    parts = {"encoder": encoder, "upsampler": upsampler, "stride": stride}
    guidance = GUIDANCE if guided else NO_GUIDANCE
    model = toy(backbone=backbone, axial_attention=guided, guidance=guidance, **parts)
    checked = small(model).export(tmp_path / "model.onnx")
    assert {c.what: c.size for c in checked}["smallest"] == (1, 1)
    assert max(c.logits for c in checked) < 1e-3


@pytest.mark.parametrize("size", [(6, 6), (1, 1), (3, 5), (7, 13), (12, 9), (2, 30)])
def test_pooling_of_the_exported_ppm(size, monkeypatch):
    from hfgd.model.encoders.ppm import BINS, pooled

    x = torch.rand(2, 4, *size)
    expected = [pooled(x, bins) for bins in BINS]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    for bins, theirs in zip(BINS, expected, strict=True):
        torch.testing.assert_close(pooled(x, bins), theirs)


@pytest.mark.slow
def test_weights_too_large_for_one_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exporter, "ONE_FILE", 1000)
    model = toy(upsampler="none")
    model.export(tmp_path / "model.onnx")
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert "'model.onnx.data' belongs to 'model.onnx'" in capsys.readouterr().err
    image = pixels()
    ours = ExportedModel(tmp_path / "model.onnx")(image)
    assert (ours == model.predict(image).labels).mean() >= 0.9999


def test_a_file_predicts_where_there_is_no_torch(exported, tmp_path):
    file = exported[0] / "model.onnx"
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from hfgd.predict import predict_files\n"
        "from hfgd.inference.labeller import InferenceConfig; import hfgd.cli.main\n"
        f"out = Path({str(tmp_path / 'out')!r})\n"
        f"predict_files({str(file)!r}, [Path({str(tmp_path / 'a.png')!r})], out, InferenceConfig())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert np.asarray(Image.open(tmp_path / "out/labels/a.png")).shape == (40, 50)
