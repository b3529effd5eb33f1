"""``hfgd predict`` over odd names, foreign files among its results, pipes and braces: at the first run
and at each repeat."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from conftest import toy
from hfgd.checkpoint import save_model
from hfgd.errors import HfgdError
from hfgd.files import alone, part_of, write_whole
from hfgd.predict.inputs import find_images


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(toy(3), tmp_path_factory.mktemp("model"))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (33, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def put(photo, folder, *names):
    for name in names:
        path = os.path.join(os.fsencode(folder), name if isinstance(name, bytes) else name.encode())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copy(photo, path)
    return folder


def manifest(out):
    from pyarrow import parquet

    return {row["label"]: row for row in parquet.read_table(out / "manifest.parquet").to_pylist()}


ODD = [b"plain.png", b"\xff\xfe.png", b"c\rr.png", b"n\nl.png", b"=1+1.png", b"n" * 251 + b".png"]


def test_odd_names_have_their_rows_at_each_repeat(model, photo, tmp_path, run):
    put(photo, tmp_path / "in", *ODD)
    for done in ("6 images labelled", "0 images labelled (6 had been before)"):
        code, out, err = run("predict", model, tmp_path / "in", "--out", tmp_path / "out")
        assert code == 0, err
        assert done in out
        rows = manifest(tmp_path / "out")
        assert len(rows) == 6
        assert all((row["height"], row["width"]) == (33, 40) for row in rows.values())
        assert all(
            row["seconds"] is not None for row in rows.values()
        )  # the row itself, not a guess
        assert {"\\xff\\xfe.png", "plain.png"} <= {label.replace("\\udc", "\\x") for label in rows}
    assert len(os.listdir(tmp_path / "out/labels")) == 6


def test_odd_names_without_pyarrow(model, photo, tmp_path, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    put(photo, tmp_path / "in", *ODD)
    for _ in range(2):
        assert run("predict", model, tmp_path / "in", "--out", tmp_path / "out")[0] == 0
        with (tmp_path / "out/manifest.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 6
        assert all(row["height"] == "33" for row in rows)


def test_foreign_files_among_the_results(model, photo, tmp_path, run):
    put(photo, tmp_path / "in", "a.png", "b.png")
    out = tmp_path / "out"
    words = ("predict", model, tmp_path / "in", "--out", out)
    assert run(*words)[0] == 0
    (out / "labels/zz.png").write_bytes(b"no picture")
    Image.new("RGB", (5, 5)).save(out / "labels/colours.png")
    for name in ("notes.txt", "x.failed.csv", "1-of-999999999999999.csv", "of-.json"):
        (out / "parts" / name).write_text("a,b\n\0,1,2,3,4\n")
    parts = out / "parts/1-of-1.csv"
    lines = parts.read_text().splitlines()
    cells = next(csv.reader([lines[0]]))
    strange = [
        [*cells[:-1], "9" * 30],  # beyond 64 bits
        [*cells[:-1], "9" * 5000],
        [*cells[:6], *["9" * 25] * (len(cells) - 7), cells[-1]],
        [cells[0], "", "x", "-1", "z", "1e999", *cells[6:-1], "9223372036854775807"],
        ["x" * 200_000, *cells[1:]],
    ]
    parts.write_text("\n".join([*lines, *(",".join(row) for row in strange), '"open', ""]))
    for _ in range(2):
        code, _, err = run(*words)
        assert code == 0, err
        rows = manifest(out)
        assert (rows["a.png"]["height"], rows["a.png"]["width"]) == (33, 40)
        assert sum(rows["a.png"][f"pixels.class {i}"] for i in range(3)) == 33 * 40
        assert rows["zz.png"]["height"] is None
        assert rows["colours.png"]["height"] is None
        assert run("predict", "--merge", out)[0] in (0, 1)


@pytest.mark.parametrize(
    "content", [b'{"model": "x', b"[1]", b"\xff", b"", b'{"classes": 1}', b"[" * 9999]
)
def test_a_damaged_predict_json_is_one_sentence(content, model, photo, tmp_path, run):
    put(photo, tmp_path / "in", "a.png")
    words = ("predict", model, tmp_path / "in", "--out", tmp_path / "out")
    assert run(*words)[0] == 0
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "out/predict.json").write_bytes(content)
    for call in (words, ("predict", "--merge", tmp_path / "out")):
        code, _, err = run(*call)
        assert code == 2
        assert "predict.json' is damaged" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_pipes_devices_and_sockets_are_named_and_the_rest_is_labelled(model, photo, tmp_path, run):
    folder = put(photo, tmp_path / "in", "a.png")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.tif")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to("loop.png")
    here = os.getcwd()
    os.chdir(folder)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.png")
    finally:
        os.chdir(here)
    code, out, err = run("predict", model, folder, "--out", tmp_path / "out")
    assert code == 1
    assert "1 image labelled" in out
    assert err.count("is a pipe, a socket or a device") == 4


@pytest.mark.parametrize("name", ["/dev/zero", "pipe.png", "pipe.txt", "pipe.zip", "pipe.tar"])
def test_a_pipe_as_the_input_is_refused_at_once(name, model, tmp_path, run):
    path = name if name.startswith("/") else tmp_path / name
    if not name.startswith("/"):
        os.mkfifo(path)
    code, _, err = run("predict", model, path, "--out", tmp_path / "out")
    assert code in (1, 2)
    assert "is a pipe, a socket or a device" in err


def test_braces_in_real_names_and_without_end(photo, tmp_path):
    put(photo, tmp_path, "frames{1..3}/a.png", "frames1/b.png")
    assert [i.target for i in find_images([tmp_path / "frames{1..3}"])] == ["a.png"]
    assert [i.target for i in find_images([tmp_path / "frames{1..1}"])] == ["b.png"]
    for many in ("{1..999999999}", "{1..9999999999999999999999}", "{" + "1" * 5000 + "..2}"):
        with pytest.raises(HfgdError, match="more than 100,000 names"):
            find_images([f"{tmp_path}/x{many}.png"])


def test_a_jpg_beside_a_folder_of_its_labels_name(model, photo, tmp_path, run):
    put(photo, tmp_path / "in", "a.jpg", "a.png/b.jpg", "c.jpg")
    assert run("predict", model, tmp_path / "in", "--out", tmp_path / "out")[0] == 0
    labels = tmp_path / "out/labels"
    found = sorted(p.relative_to(labels).as_posix() for p in labels.rglob("*.png") if p.is_file())
    assert found == ["a.png/b.png", "a_jpg.png", "c.png"]


def test_a_zip_with_a_member_that_unpacks_to_much(model, photo, tmp_path, run, monkeypatch):
    from hfgd.data import archive

    monkeypatch.setattr(archive, "LARGEST", 1 << 20)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(photo, "a.png")
        packed.writestr("bomb.png", bytes(30_000_000))
    code, out, err = run("predict", model, tmp_path / "x.zip", "--out", tmp_path / "out")
    assert code == 1
    assert "1 image labelled" in out
    assert "bomb.png' unpacks to more than 1 MiB" in err


def test_a_list_with_nul_is_one_sentence(model, tmp_path, run):
    (tmp_path / "list.txt").write_bytes(b"a\0b.png\n")
    code, _, err = run("predict", model, tmp_path / "list.txt", "--out", tmp_path / "out")
    assert code == 2
    assert "a line with NUL" in err


# ---- files of whatever command ---------------------------------------------------------------


@pytest.mark.parametrize("length", [249, 250, 251, 255])
def test_names_as_long_as_can_be_are_written(length, tmp_path):
    path = tmp_path / ("é" * (length // 2) + "x" * (length % 2))
    assert len(os.fsencode(part_of(path).name)) <= 255
    assert part_of(path) != part_of(path.with_name("other" + path.name[5:]))
    write_whole(path, lambda part: part.write_text("x"))
    assert os.listdir(tmp_path) == [path.name]


def test_one_process_writes_into_a_folder(tmp_path):
    script = "import sys; from pathlib import Path; from hfgd.files import alone\n"
    script += "with alone(Path(sys.argv[1])): print('mine')"
    with alone(tmp_path):
        other = subprocess.run(
            [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False
        )
    assert "another process is writing into" in other.stderr
    with alone(tmp_path):  # free again
        pass
    assert not list(tmp_path.iterdir())


def test_settings_are_kept_as_json(model, photo, tmp_path, run):
    put(photo, tmp_path / "in", "a.png")
    assert run("predict", model, tmp_path / "in", "--out", tmp_path / "out")[0] == 0
    content = json.loads((tmp_path / "out/predict.json").read_text())
    assert content["classes"] == ["class 0", "class 1", "class 2"]
