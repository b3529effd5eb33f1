"""Every command ends, and so does whatever it started: finished, stopped, broken or killed.

The bounds are for a busy machine; what they tell apart is an end from a wait for ever.
"""

import os
import shutil
import signal
import time

import pytest
import torch

from conftest import recipe, start_training, toy, wait_for_iteration
from hfgd.data.dataset import Sample
from hfgd.data.loader import EvalBatches
from hfgd.data.open import open_dataset
from hfgd.errors import HfgdError
from hfgd.evaluation.scoring import evaluate
from hfgd.training.fit import fit
from miniatures import coco, pictures
from processes import Command, cmdline, finished
from test_first_hour import serves

LONG = {"train.iterations": 100_000, "train.validate_every": 100_000}


def gone(pids, within=30):
    deadline = time.monotonic() + within
    while any(map(cmdline, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(cmdline, pids))


class Hangs:
    """A network file system that never answers, from the second image on."""

    title = "hangs"

    def __init__(self, folder):
        self.inner = open_dataset(str(folder), "val")
        self.classes = self.inner.classes

    def __len__(self):
        return 2

    def __getitem__(self, index):
        while index:
            time.sleep(60)
        return self.inner[0]


# ---- a block with workers ------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt, HfgdError, SystemExit])
def test_workers_end_with_their_block(folder, keep, error):
    def read():
        with EvalBatches(open_dataset(str(folder), "val"), 2, keep=keep) as batches:
            for sample in batches:
                assert isinstance(sample, Sample)
                pids.extend(worker.pid for worker in batches._iterator._workers)
                if error is not None:
                    raise error("in the middle")

    pids: list = []
    if error is None:
        read()
    else:
        with pytest.raises(error, match="in the middle") as _held:  # with the frames of the block
            read()
    assert len(set(pids)) == 2
    assert gone(pids, 0)


@pytest.mark.slow
def test_a_worker_that_hangs_is_killed(folder):
    with EvalBatches(Hangs(folder), 1) as batches:
        next(iter(batches))
        pids = [worker.pid for worker in batches._iterator._workers]
    assert gone(pids, 0)


def test_a_worker_that_is_killed_is_a_sentence(folder):
    """And no traceback: memory is short, say."""

    def read():
        with EvalBatches(Hangs(folder), 1) as batches:
            for _ in batches:
                os.kill(batches._iterator._workers[0].pid, signal.SIGKILL)

    with pytest.raises(HfgdError, match=r"^a process that loads images died, .*--workers\)\.$"):
        read()


# ---- little shared memory ------------------------------------------------------------------------

SHARED = r"not enough shared memory .*No space left on device.*--shm-size=8g.*train\.workers=0"


@pytest.fixture
def little_shared_memory(monkeypatch):
    """As PyTorch fails where /dev/shm is full; workers that are forked inherit it."""

    def fail(tensor):
        place = "unable to allocate shared memory(shm) for file </torch_1_2_3>"
        raise RuntimeError(f"{place}: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", fail)


def test_little_shared_memory_is_a_sentence(folder, tmp_path, little_shared_memory):
    with pytest.raises(HfgdError, match=SHARED) as stopped:
        fit(recipe(folder, **{"train.workers": 2}), tmp_path / "run")
    assert stopped.value.exit_code == 3
    data = open_dataset(str(folder), "val")
    with pytest.raises(HfgdError, match=SHARED), EvalBatches(data, 1) as batches:
        list(batches)


def test_workers_that_cannot_start_are_a_sentence(folder, monkeypatch):
    """Semaphores lie in /dev/shm too, and there may be too many processes."""

    def fail(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", fail)
    data = open_dataset(str(folder), "val")
    with pytest.raises(HfgdError, match=r"cannot start the workers.*workers=0"):
        evaluate(_Labeller(data.classes), data, workers=2)


class _Labeller:
    calibrated_on = None

    def __init__(self, classes):
        self.classes = classes


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_container_with_little_shared_memory(tmp_path):
    """Docker gives 64 MB, and these crops need more than the 4 MB here."""
    train = "hfgd train hfgd_mobilenetv2 --data scenes --set train.iterations=2"
    sets = "--set model.backbone.pretrained=false --set data.limit=4 --set train.workers=2"
    script = f"mount -t tmpfs -o size=4m tmpfs /dev/shm && exec {train} {sets} --out run"
    command = Command(["unshare", "-m", "bash", "-c", script], cwd=tmp_path)
    ended = command.end()
    if "unshare failed" in ended.err or "permission denied" in ended.err:
        pytest.skip("this container may not mount")
    assert ended.code == 3, ended.err
    assert "Traceback" not in ended.err
    assert "--shm-size" in ended.err.strip().splitlines()[-1]


# ---- ways out of training ------------------------------------------------------------------------


def break_images(data, split):
    """All but the first, which is looked at before a run begins."""
    for path in sorted((data / "images" / split).iterdir())[1:]:
        path.write_bytes(b"no image")


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "val"])
def test_an_error_in_training_and_in_validation_ends_the_run(folder, tmp_path, split):
    settings = {"train.workers": "auto", "train.iterations": 4}
    (tmp_path / "toy.yaml").write_text(recipe(folder, **settings).yaml())
    break_images(folder, split)
    ended = start_training(tmp_path / "toy.yaml", tmp_path / "run").end()
    assert ended.code == 3, ended.err
    assert "Traceback" not in ended.err
    assert f"images/{split}" in ended.err.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("to", ["main", "all"])
@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ((signal.SIGINT, signal.SIGINT), 130),
        ((signal.SIGTERM, signal.SIGTERM), 143),
        ((signal.SIGINT, signal.SIGTERM), 130),
    ],
)
def test_a_second_signal_ends_the_run_too(folder, tmp_path, numbers, code, to):
    settings = {"train.workers": "auto", "train.checkpoint_every": 100_000}
    (tmp_path / "toy.yaml").write_text(recipe(folder, **LONG, **settings).yaml())
    process = start_training(tmp_path / "toy.yaml", tmp_path / "run")
    wait_for_iteration(process, tmp_path / "run", 3)
    for number in numbers:
        (process.send if to == "main" else process.send_all)(number)
    ended = process.end(120)
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert "go on with: hfgd train --resume" in ended.err or "no checkpoint" in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_a_killed_run_end_by_themselves(folder, tmp_path, method):
    (tmp_path / "toy.yaml").write_text(recipe(folder, **LONG, **{"train.workers": 2}).yaml())
    words = ["hfgd", "train", tmp_path / "toy.yaml", "--out", tmp_path / "run"]
    process = Command(words, method=method)
    wait_for_iteration(process, tmp_path / "run", 3)
    assert len(process.running()) >= 3
    process.send(signal.SIGKILL)
    assert process.end(60).code == -signal.SIGKILL


# ---- every command that starts workers or processes ----------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "method"), [(0, None), (2, "fork"), (2, "spawn"), (2, "forkserver")]
)
def test_commands_with_workers_end(folder, tmp_path, workers, method):
    (tmp_path / "toy.yaml").write_text(recipe(folder).yaml())

    def hfgd(*words):
        finished(["hfgd", *words], cwd=tmp_path, method=method)

    hfgd("train", "toy.yaml", "--set", f"train.workers={workers}", "--out", "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    hfgd("eval", "one", "--data", folder, "--workers", workers)
    hfgd("compare", "one", "two", "--data", folder)
    words = ("--folds", 2, "--workers", workers, "--set", f"train.workers={workers}")
    hfgd("review", "one", "--data", folder, *words, "--out", "review")
    for made in ("one/report.html", "compare/report.html", "review/review.csv"):
        assert (tmp_path / made).is_file()


@pytest.mark.slow
def test_commands_with_processes_end(folder, tmp_path):
    (tmp_path / "toy.yaml").write_text(recipe(folder).yaml())
    more = ("--devices", 2)
    finished(["hfgd", "train", "toy.yaml", *more, "--out", "run"], cwd=tmp_path)
    finished(["hfgd", "eval", "run", "--data", folder, *more], cwd=tmp_path)
    photos = folder / "images/train"
    finished(["hfgd", "predict", "run", photos, *more, "--out", "out"], cwd=tmp_path)
    assert len(list((tmp_path / "out/labels").iterdir())) == 3
    serves(["hfgd", "serve", "run", "--workers", 2], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "predict"])
def test_processes_of_a_killed_command_end_by_themselves(folder, tmp_path, verb):
    (tmp_path / "toy.yaml").write_text(recipe(folder, **LONG).yaml())
    if verb == "train":
        words = ["hfgd", "train", tmp_path / "toy.yaml", "--out", tmp_path / "run"]
    else:
        toy(3).save(tmp_path / "model")
        many = tmp_path / "many"
        many.mkdir()
        for i in range(2000):
            os.link(folder / "images/train/train0.png", many / f"{i}.png")
        words = ["hfgd", "predict", tmp_path / "model", many, "--out", tmp_path / "out"]
    process = Command([*words, "--devices", 2])
    deadline = time.monotonic() + 120
    while len(process.running()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(5)  # they are on their way
    assert len(process.running()) >= 3
    process.send(signal.SIGKILL)
    assert process.end(60).code == -signal.SIGKILL


@pytest.mark.slow
def test_an_import_ends(tmp_path):
    coco(tmp_path / "in", pictures())
    finished(["hfgd", "data", "import", tmp_path / "in", "--out", tmp_path / "out"])
    finished(["hfgd", "data", "check", tmp_path / "out"])
