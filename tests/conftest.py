"""Toy backbones, a tiny data folder, and the real data where HFGD_SHARED points to some.

HFGD_TEST_BF16=1 or 0: the tests see a CPU with bf16 instructions or without, whatever this one is.
HFGD_TEST_THREADS: threads of PyTorch; 1 by default.
"""

import os
import runpy

if not os.environ.get("HFGD_TEST_GPU"):  # before torch looks; processes that tests start inherit it
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

# an error that hfgd did not foresee shows its traceback, also in processes that tests start
os.environ.setdefault("HFGD_TRACEBACK", "1")

import sys
import time
from pathlib import Path

AS_CPU = Path(__file__).parent / "as_cpu"
if os.environ.get("HFGD_TEST_BF16"):  # here, and in the processes that tests start
    runpy.run_path(str(AS_CPU / "sitecustomize.py"))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(AS_CPU), *filter(None, [os.environ.get("PYTHONPATH")])]
    )

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hfgd.data.classes import ClassSet
from hfgd.model import BackboneSpec, ModelSpec, Segmenter
from hfgd.model.build import build
from hfgd.model.config import GUIDANCE
from hfgd.recipes.spec import Recipe
from processes import Command

# a second of each: corners, cells, cells with NHWC maps, and one map of a plain ViT with registers
TOYS = {
    "test_resnet": BackboneSpec(name="test_resnet"),
    "test_convnext": BackboneSpec(name="test_convnext"),
    "swin": BackboneSpec(
        name="swin_tiny_patch4_window7_224",
        options={
            "embed_dim": 24,
            "depths": [1, 1, 2, 1],
            "num_heads": [1, 2, 4, 8],
            "window_size": 4,
        },
    ),
    "vit": BackboneSpec(
        name="vit_small_patch14_reg4_dinov2",
        options={"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 112},
    ),
}


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed():
    torch.set_num_threads(int(os.environ.get("HFGD_TEST_THREADS", "1")))
    torch.manual_seed(0)


def toy(classes: int = 5, backbone: str = "test_resnet", **model) -> Segmenter:
    spec = ModelSpec(backbone=TOYS[backbone], width=32).model_copy(update=model)
    return build(spec, ClassSet.numbered(classes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three train and two val pairs of three classes, ids 10, 20, 30 and 99 = ignore."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for kind in ("images", "labels"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            ids = rng.choice([10, 20, 30, 99], (40, 50)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data/images" / split / f"{split}{i}.png")
            Image.fromarray(ids).save(tmp_path / "data/labels" / split / f"{split}{i}.png")
    (tmp_path / "data" / "data.yaml").write_text(
        "classes: [a, b, c]\nlabel_map: {10: a, 20: b, 30: c, 99: ignore}\n"
    )
    return tmp_path / "data"


@pytest.fixture
def run(capsys, monkeypatch):
    """Call ``hfgd`` in this process: (exit code, stdout, stderr)."""
    from hfgd.cli import main

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["hfgd", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "140")
        try:
            main()
            code = 0
        except SystemExit as leave:
            code = leave.code or 0
        out, err = capsys.readouterr()
        assert code != 70, err  # an error that hfgd did not foresee is never what a test expects
        return code, out, err

    return call


@pytest.fixture
def shared() -> Path:
    """The folder with real data and weights; skips where there is none."""
    path = os.environ.get("HFGD_SHARED")
    if not path or not Path(path).is_dir():
        pytest.skip("HFGD_SHARED names no folder with real data")
    return Path(path)


def recipe(folder, **changes) -> Recipe:
    """Eight iterations of a toy HFGD on the tiny folder."""
    model = ModelSpec(
        backbone=TOYS["test_resnet"],
        encoder="cae",
        upsampler="u_sfpn",
        width=16,
        guidance=GUIDANCE,
        axial_attention=True,
    )
    short = {
        "data.location": str(folder),
        "augment.crop": [33, 33],
        "train.iterations": 8,
        "train.batch_size": 2,
        "train.validate_every": 4,
        "train.checkpoint_every": 2,
        "train.log_every": 1,
        # not the default, 'auto': this process reads such images sooner than it starts another one;
        # test_first_hour.py and test_processes_end.py train with the default
        "train.workers": 0,
        "train.panels": 1,
    }
    return Recipe(name="toy", model=model).with_(**{**short, **changes})


def weights(out):
    return load_file(out / "last" / "model.safetensors")


def check_same_files(found: dict, expected: dict) -> None:
    """The same names with the same content; says which differ, and not their bytes."""
    names = found.keys() | expected.keys()
    nothing = object()
    odd = sorted(n for n in names if found.get(n, nothing) != expected.get(n, nothing))
    if odd:
        some = ", ".join(map(str, odd[:5]))
        pytest.fail(f"{len(odd)} of {len(names)} files differ: {some}", pytrace=False)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def start_training(path, out):
    return Command(["hfgd", "train", path, "--out", out])


def wait_for_iteration(process, out, iteration):
    deadline = time.monotonic() + 120
    log = out / "logs" / "train.csv"
    while time.monotonic() < deadline and process.poll() is None:
        if log.is_file() and len(log.read_text().splitlines()) > iteration:
            return
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"ended or hung before iteration {iteration}:\n{process.said()}")
