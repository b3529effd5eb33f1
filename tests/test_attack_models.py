"""Models of strangers that cannot be, and what is said of errors that nobody foresaw."""

import errno
import json
import os
import subprocess
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from conftest import toy
from hfgd.checkpoint import load_model, save_model
from hfgd.cli import main as cli
from hfgd.errors import HfgdError
from hfgd.export.metadata import Facts
from hfgd.export.runtime import read_facts
from hfgd.model.config import ModelConfig, ModelSpec


@pytest.fixture
def saved(tmp_path):
    return save_model(toy(3), tmp_path / "model")


def edit(folder, change):
    path = folder / "config.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def options(**values):
    return lambda d: d["model"]["backbone"].update(options=values)


CONFIGS = {
    "a width of 10⁹": lambda d: d["model"].update(width=10**9),
    "a width that is not the weights'": lambda d: d["model"].update(width=4096),
    "a width of 30 digits": lambda d: d["model"].update(width=10**30 * 4),
    "100,000 layers": options(depths=[100_000] * 4),
    "a hundred layers": options(depths=[100, 100, 100, 100]),
    "wide layers": options(stem_chs=10**12),
    "nothing to divide by": lambda d: d.update(std=[0, 0, 0]),
    "a spread below 0": lambda d: d.update(std=[-1, 1, 1]),
    "no number": lambda d: d.update(mean=[float("nan")] * 3),
    "an endless number": lambda d: d.update(std=[float("inf")] * 3),
    "a crop below 0": lambda d: d.update(crop=[-5, 10**12]),
    "a wide dilation": lambda d: d["model"]["backbone"].update(multi_grid=[10**9] * 3),
    "no classes": lambda d: d.update(classes=[], palette=[]),
    "lists in lists": lambda d: d.update(facts=json.loads("[" * 200 + "]" * 200)),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_cannot_be_is_one_sentence(case, saved, run):
    edit(saved, CONFIGS[case])
    began = time.process_time()
    tracemalloc.start()
    code, _, err = run("predict", saved, "x.png", "--out", saved / "out")
    code = 0 if "there is no image" in err else code
    with pytest.raises(HfgdError) as refused:
        load_model(saved)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(refused.value)
    assert peak < 100_000_000
    assert time.process_time() - began < 30
    assert not (saved / "out").exists()


@pytest.mark.parametrize("length", [0, 4, 8, 100, 10_000, -1])
def test_truncated_weights(length, saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(HfgdError, match=r"truncated or no safetensors file"):
        load_model(saved)


def test_weights_that_are_no_numbers(saved):
    path = saved / "model.safetensors"
    weights = load_file(path)
    key = sorted(k for k, v in weights.items() if v.is_floating_point())[0]
    weights[key] = torch.full_like(weights[key], float("nan"))
    save_file(weights, path)
    with pytest.raises(HfgdError, match=f"'{key}' holds numbers that are not finite"):
        load_model(saved)


def test_honest_configs_are_taken():
    assert ModelSpec(width=1024, backbone={"options": {"img_size": 1024, "drop_path_rate": 0.4}})
    config = ModelConfig(classes=("a",), palette=((0, 0, 0),), std=(0.229, 0.224, 0.225))
    assert config.std is not None
    assert ModelConfig(classes=("a",), palette=((0, 0, 0),), std=(58.4, 57.1, 57.4)).std


# ---- exported files ----------------------------------------------------------------------------

FACTS = {
    "version": "1", "name": "toy", "classes": ["a", "b"], "palette": [[0, 0, 0], [1, 1, 1]],
    "grid": "cells", "crop": [32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2],
}  # fmt: skip
WRONG = {
    "std": "[0, 0, 0]", "mean": "[NaN, 0, 0]", "smallest": "[1000000, 1000000]", "size": "[-1, 5]",
    "crop": "[0, 0]", "classes": json.dumps([str(i) for i in range(300)]), "palette": "[[0, 0, 0]]",
    "format": "[" * 5000, "grid": "9" * 5000,
}  # fmt: skip


def properties(**changes):
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in FACTS.items()}
    return {f"hfgd.{key}": value for key, value in (texts | changes).items()}


def test_the_facts_are_good():
    assert Facts.of_properties(properties()).classes == ("a", "b")


@pytest.mark.parametrize("key", WRONG)
def test_bad_metadata_in_onnx(key, tmp_path, run):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, image = onnx.helper, onnx.TensorProto.UINT8
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["labels"])],
        "toy",
        [helper.make_tensor_value_info("image", image, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("labels", image, ["n", 3, "h", "w"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, properties(**{key: WRONG[key]}))
    onnx.save(model, tmp_path / "m.onnx")
    code, _, err = run("info", tmp_path / "m.onnx")
    assert code == 2
    assert "what it says of itself is damaged" in err


@pytest.mark.parametrize(
    "content", ["[1]", "[" * 5000, '{"machine": 1}', "{", "\ud800", "9" * 5000]
)
def test_bad_metadata_in_pt2(content, tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as package:
        package.writestr("m/extra/hfgd.json", content.encode(errors="surrogatepass"))
    with pytest.raises(HfgdError, match="truncated or no AOTInductor package"):
        read_facts(tmp_path / "m.pt2")


# ---- errors that nobody foresaw ----------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch):
    """A command that raises what it is given."""

    def with_error(error):
        def app():
            raise error

        monkeypatch.setattr(sys.modules["hfgd.cli.main"], "app", app)

    return with_error


def call(capsys):
    with pytest.raises(SystemExit) as leave:
        cli()
    return leave.value.code, capsys.readouterr().err


def test_an_unexpected_error_is_two_lines_and_a_file(broken, capsys, monkeypatch, tmp_path):
    import tempfile

    monkeypatch.delenv("HFGD_TRACEBACK")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    broken(ZeroDivisionError("of\nzero"))
    code, err = call(capsys)
    assert code == 70
    first, second = err.strip().split("\n")
    assert first.startswith("hfgd: unexpected error in hfgd ")
    assert first.endswith("(ZeroDivisionError: of zero);")
    (file,) = tmp_path.iterdir()
    assert second == f"the traceback is in {file}, please report it."
    assert "raise error" in file.read_text()


def test_the_traceback_is_printed_where_it_is_asked_for(broken, capsys, monkeypatch, tmp_path):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HFGD_TRACEBACK", "1")
    broken(ZeroDivisionError("of zero"))
    code, err = call(capsys)
    assert code == 70
    assert "Traceback (most recent call last)" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_a_full_disk_wherever_it_is_met(number, broken, capsys):
    broken(OSError(number, os.strerror(number)))
    code, err = call(capsys)
    assert code == 2
    assert "the disk is full" in err
    assert err.count("\n") == 1


def test_no_memory_is_a_sentence(broken, capsys):
    broken(MemoryError())
    code, err = call(capsys)
    assert code == 2
    assert "not enough memory" in err


def test_messages_are_short_and_on_one_line(broken, capsys):
    broken(HfgdError("a\x1b[31m\nb" + "x" * 100_000 + "; rename it."))
    code, err = call(capsys)
    assert code == 2
    assert len(err) < 2100
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert err.endswith("rename it.\n")


def test_help_lists_the_exit_code(run):
    assert "70 an error in hfgd itself" in " ".join(run("--help")[1].split())


def test_a_process_that_is_started_ends_with_70_too(tmp_path):
    """As shares of predict and processes of train are: python -m hfgd."""
    (tmp_path / "sitecustomize.py").write_text(
        "import hfgd.parse\ndef broken(*_):\n    raise ZeroDivisionError\n"
        "import hfgd.recipes.spec as s\ns.parse_yaml = broken\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment.pop("HFGD_TRACEBACK", None)
    words = [sys.executable, "-m", "hfgd", "train", "demo_sfpn", "--set", "optim.lr=1"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 70, done.stderr
    assert done.stderr.count("\n") == 2
    assert "unexpected error in hfgd" in done.stderr


def test_the_tests_fail_on_exit_70(run, broken):
    """The helper ``run`` of all tests hides nothing."""
    broken(ZeroDivisionError("of zero"))
    with pytest.raises(AssertionError, match="of zero"):
        run("recipes")


def test_an_image_is_labelled_by_an_honest_model(saved, tmp_path, run):
    Image.fromarray(np.zeros((33, 40, 3), np.uint8)).save(tmp_path / "x.png")
    assert run("predict", saved, tmp_path / "x.png", "--out", tmp_path / "out")[0] == 0
