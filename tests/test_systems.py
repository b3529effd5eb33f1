"""What differs on Windows and macOS, simulated: names, locks, encodings, processes that are spawned."""

import io
import multiprocessing
import os
import pickle
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torch
from PIL import Image

import hfgd.files
from hfgd.cli.main import main
from hfgd.data.folder import FolderData, FolderDataset
from hfgd.data.loader import EvalBatches, TrainBatches, TrainStream
from hfgd.data.scenes import ScenesDataset
from hfgd.data.transforms.pipeline import Augment
from hfgd.data.transforms.spec import AugmentSpec
from hfgd.errors import HfgdError
from hfgd.hub import is_hub, parse
from hfgd.predict.image_rows import RowWriter
from hfgd.predict.inputs import InputImage, _placed
from hfgd.predict.shards import Shard
from hfgd.predict.storage import Folder
from hfgd.types import Grid

ROOT = Path(__file__).parent.parent
RESERVED = {"con", "prn", "aux", "nul", *(f"{n}{i}" for n in ("com", "lpt") for i in range(1, 10))}


def test_the_files_of_the_package_have_names_for_every_system():
    names = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "src").rglob("*"))]
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert not set(name) & set('<>:"\\|?*'), name
        assert PurePosixPath(name).name.split(".")[0].lower() not in RESERVED, name


@pytest.fixture(params=["win32", "darwin"])
def without_case(request, monkeypatch):
    monkeypatch.setattr(hfgd.files.sys, "platform", request.param)


def test_images_that_differ_by_case_alone(without_case):
    """Both keep their suffix where that tells them apart, and are refused where it does not."""
    placed = _placed([InputImage("a", "in/a.jpg"), InputImage("b", "in/A.png")])
    assert [item.target for item in placed] == ["in/a_jpg.png", "in/A_png.png"]
    with pytest.raises(HfgdError, match=r"both be written to 'in/a_jpg\.png'"):
        _placed([InputImage("a", "in/a.jpg"), InputImage("b", "in/A.jpg")])


def test_images_that_differ_by_case_alone_on_linux():
    placed = _placed([InputImage("a", "in/a.jpg"), InputImage("b", "in/A.jpg")])
    assert [item.target for item in placed] == ["in/a.png", "in/A.png"]


def test_an_address_of_the_hub_may_have_been_a_path_of_windows():
    path = str(PureWindowsPath("hf://ann/streets@v1"))
    assert "\\" in path
    assert is_hub(path)
    assert str(parse(path)) == "hf://ann/streets@v1"
    assert not is_hub(str(PureWindowsPath("C:/models/hf")))


def test_rows_without_locks(tmp_path, monkeypatch):
    """Windows has no fcntl: a share is written all the same."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    rows = RowWriter(Folder(tmp_path), Shard())
    rows.close(0, [])
    assert (tmp_path / "parts" / "1-of-1.json").is_file()


def test_a_file_is_flushed_through_a_handle_that_may_write(tmp_path, monkeypatch):
    """os.fsync of a file opened for reading fails on Windows."""
    import fcntl

    def fsync(handle):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(hfgd.files.os, "fsync", fsync)
    monkeypatch.setattr(hfgd.files, "os", _Windows(hfgd.files.os))
    hfgd.files.write_text(tmp_path / "a.txt", "×")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "×"


class _Windows:
    """The module os, calling itself Windows (pathlib must not hear of it)."""

    name = "nt"

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, name)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_pipe_that_knows_few_letters(monkeypatch, encoding):
    """Windows gives a pipe an encoding of 256 letters."""
    pipe = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, "stdout", pipe)
    monkeypatch.setattr(sys.modules[main.__module__], "app", lambda: print("7 × 7 → 類"))
    main()
    assert pipe.buffer.getvalue().endswith(b"\\u985e\n")


def data(folder):
    for split in ("train",):
        for kind, shape in (("images", (40, 50, 3)), ("labels", (40, 50))):
            for name in ("a", "b", "c"):
                file = folder / kind / split / f"{name}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full(shape, ord(name) % 2, np.uint8)).save(file)
    (folder / "data.yaml").write_text("classes: [one, two]\nlabel_map: {0: one, 1: two}\n")
    return FolderDataset(FolderData(folder), "train")


def stream(dataset):
    return TrainStream(
        dataset, Augment(AugmentSpec(crop=(33, 33)), torch.zeros(3), Grid.CORNERS), seed=0
    )


@pytest.mark.parametrize("kind", ["folder", "scenes"])
def test_what_reading_processes_get_can_be_sent_to_them(tmp_path, kind):
    """Spawned processes (macOS, Windows) are sent the data set; forked ones have it."""
    one = stream(data(tmp_path) if kind == "folder" else ScenesDataset("train"))
    other = pickle.loads(pickle.dumps(one))
    assert (one[5].image == other[5].image).all()
    assert (one[5].label == other[5].label).all()


@pytest.mark.slow
def test_spawned_processes_read_the_same(tmp_path):
    dataset, before = data(tmp_path), multiprocessing.get_start_method(allow_none=True)
    expected = [TrainBatches(stream(dataset), 2, 0, 0, 0, 1), EvalBatches(dataset)]
    multiprocessing.set_start_method("spawn", force=True)
    try:
        found = [TrainBatches(stream(dataset), 2, 0, 1, 0, 1), EvalBatches(dataset, workers=1)]
        for one, other in zip(expected, found, strict=True):
            with other:
                for a, b in zip(one, other, strict=False):
                    assert (a[0] == b[0]).all()
                    assert (a[1] == b[1]).all()
                    if one is expected[0]:
                        break
    finally:
        multiprocessing.set_start_method(before, force=True)
