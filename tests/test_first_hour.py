"""The first hour of a new user: the commands of README.md and docs/start.md, typed as they stand there.

In order, each in a process of its own, in an empty folder with photographs and masks, with the
defaults; only what takes long is made small (ADDED), and what cannot run here is named (NOT_HERE).
"""

import re
import shlex
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hub_server import Hub
from processes import Command, finished

ROOT = Path(__file__).parent.parent
SMALL = ["--set", "train.iterations=2", "--set", "augment.crop=[65,65]"]
SMALL += ["--set", "model.backbone.pretrained=false"]
ADDED = {"train": SMALL}
NOT_HERE = {
    "make demo": "installs from the network; 'hfgd demo' is tried below",
    "make test": "is what runs this",
    "pip install .": "installs from the network; this environment holds the package",
}
SHELL = {"mkdir", "mv", "cp"}
RUN = (
    "recipe.yaml environment.json last best logs report.md report.json curves.png confusion.png "
    "iou_per_class.png panels.png report.html"
).split()


def commands(page: str) -> list[list[str]]:
    """The commands in a page's blocks, without their comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = [
        line.partition(" #")[0].strip()
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        if not language
        for line in block.splitlines()
    ]
    starts = {"hfgd", "make", "pip", *SHELL}
    return [shlex.split(line) for line in lines if line.split()[:1] and line.split()[0] in starts]


def photographs(images: Path, labels: Path, count: int, first: int = 0) -> None:
    """JPEG photographs of different sizes, and PNG masks of what is in them."""
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for i in range(first, first + count):
        rng = np.random.default_rng(i)
        height, width = 90 + 7 * (i % 5), 120 + 11 * (i % 4)
        ids = np.zeros((height, width), dtype=np.uint8)
        ids[: height // 2] = 7
        ids[height // 2 :, : width // 3] = 1
        ids[:2] = 255
        colours = {0: (90, 90, 95), 1: (160, 30, 30), 7: (40, 120, 50), 255: (0, 0, 0)}
        table = np.zeros((256, 3), dtype=np.int16)
        for value, colour in colours.items():
            table[value] = colour
        pixels = table[ids] + rng.normal(0, 20, (height, width, 3))
        name = f"street_{i}"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(images / f"{name}.jpg")
        Image.fromarray(ids).save(labels / f"{name}.png")


YAML = "classes: [road, car, tree]\nlabel_map: {0: road, 1: car, 7: tree, 255: ignore}\n"


def typed(words: list[str], cwd: Path, **environment: str) -> None:
    """Type one command; it ends well and leaves no process."""
    if " ".join(words) in NOT_HERE:
        return
    if words[0] == "hfgd" and words[1] == "serve":
        serves(words, cwd)
        return
    added = ADDED.get(words[1], []) if words[0] == "hfgd" else []
    finished([*words, *added], cwd=cwd, **environment)


def serves(words: list[str], cwd: Path) -> None:
    """A service answers, and ends at Ctrl-C."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = Command([*words, "--port", port], cwd=cwd)
    deadline = time.monotonic() + 120
    while "stop with Ctrl-C" not in command.said() and time.monotonic() < deadline:
        assert command.poll() is None, command.said()
        time.sleep(0.1)
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
                assert answer.status == 200
                break
        except OSError:
            assert time.monotonic() < deadline, command.said()
            time.sleep(0.1)
    command.send(signal.SIGINT)
    ended = command.end(60)
    assert ended.code in (0, 130), ended.err
    assert "Traceback" not in ended.err


def check_run(run: Path) -> None:
    missing = [name for name in RUN if not (run / name).exists()]
    assert not missing


def check_predictions(cwd: Path) -> None:
    photos = {p.stem for p in (cwd / "photos").iterdir()}
    for folder in ("labels", "overlays"):
        assert {p.stem for p in (cwd / "predictions" / folder).iterdir()} == photos


def of_own_data(words: list[str]) -> bool:
    return words[0] == "hfgd" and words[1] != "export"


def my_data(folder: Path) -> None:
    photographs(folder / "my_data/images/train", folder / "my_data/labels/train", 6)
    photographs(folder / "my_data/images/val", folder / "my_data/labels/val", 2, first=6)
    (folder / "my_data/data.yaml").write_text(YAML)
    photographs(folder / "photos", folder / "unused", 2, first=20)


def test_every_command_is_tried_or_named():
    """A page that gains a command of another kind shows here."""
    for page in ("README.md", "docs/start.md"):
        found = commands(page)
        assert len(found) > 5
        for words in found:
            assert words[0] in {"hfgd", *SHELL} or " ".join(words) in NOT_HERE, words


def test_own_data_as_the_readme_says(tmp_path):
    my_data(tmp_path)
    found = [words for words in commands("README.md") if of_own_data(words)]
    assert [words[1] for words in found] == ["data", "train", "eval", "predict"]
    for words in found:
        typed(words, tmp_path)
    check_run(tmp_path / "runs/first")
    assert list((tmp_path / "runs/first").glob("eval-*/report.html"))
    check_predictions(tmp_path)


@pytest.mark.slow
def test_the_whole_readme(tmp_path):
    my_data(tmp_path)
    for words in commands("README.md"):
        typed(words, tmp_path)
    check_run(tmp_path / "runs/first")
    check_predictions(tmp_path)
    for name in ("street.onnx", "street.html"):
        assert (tmp_path / name).stat().st_size > 10_000


@pytest.mark.slow
def test_the_whole_start_page(tmp_path):
    """From a folder of photographs and a folder of masks to a service."""
    text = (ROOT / "docs/start.md").read_text(encoding="utf-8")
    assert [name for name in RUN if f"`{name.replace('.html', '')}" not in text] == []
    photographs(tmp_path / "photos", tmp_path / "masks", 10)
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": "hf_user",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
        }
        for words in commands("docs/start.md"):
            if words[:3] == ["hfgd", "data", "split"]:
                (tmp_path / "mine/data.yaml").write_text(YAML)  # the page's "write mine/data.yaml"
            if words[1:2] == ["compare"]:  # the page's "train both"
                other = ["hfgd", "train", "sfpn_mobilenetv2", "--data", "my_data"]
                typed([*other, "--out", "runs/other"], tmp_path)
            typed(words, tmp_path, **(environment if words[1:2] == ["push"] else {}))
        assert "user/name" in hub.repositories
        hub.shutdown()
    check_run(tmp_path / "runs/first")
    check_predictions(tmp_path)
    made = "compare/report.html compare/compare.md review/review.csv street.onnx street.html"
    assert [name for name in made.split() if not (tmp_path / name).exists()] == []
    assert (tmp_path / "masks").is_dir()  # what was copied stays


@pytest.mark.slow
def test_the_demo(tmp_path):
    finished(["hfgd", "demo", "--iterations", 1], cwd=tmp_path)
    assert (tmp_path / "runs/demo/demo.png").is_file()
