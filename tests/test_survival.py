"""Whatever ends a run: one sentence, a good checkpoint, and the same weights after resuming."""

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from conftest import recipe, same, start_training, wait_for_iteration, weights
from hfgd.checkpoint import load_model
from hfgd.errors import TrainingStopped
from hfgd.training.failures import explained, read_iteration
from hfgd.training.fit import fit
from hfgd.training.run_folder import RunFolder

LONG = {"train.iterations": 100_000, "train.validate_every": 100_000}


def killed_child(run, after: float, writes: int | None, why: Path | None = None) -> int:
    """Fork a process that runs ``run``; SIGKILL it after some seconds, or at its n-th write.

    Returns what ``os.waitpid`` says; 0 where the run had ended before. ``why``: takes the traceback
    of a run that failed by itself.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        if writes is not None:
            kill_at_write(writes)
        try:
            run()
        except BaseException:
            if why is not None:
                why.write_text(traceback.format_exc())
            os._exit(1)
        os._exit(0)
    if writes is None:
        deadline = time.monotonic() + after
        while time.monotonic() < deadline:
            if os.waitpid(child, os.WNOHANG)[0]:
                return 0
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def kill_at_write(number):
    """Die within the n-th file that is written whole: half written, or before it takes its place."""
    from hfgd import files

    left = [number]
    fsync = os.fsync

    def dying(handle):
        left[0] -= 1
        if left[0] == 0:
            if number % 2:  # cut the part in two, as a kill in the middle of writing leaves it
                path = os.readlink(f"/proc/self/fd/{handle}")
                os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)

    files.os.fsync = dying


@pytest.mark.slow
def test_twenty_kills_change_nothing(folder, tmp_path):
    """In a process of its own: what other tests start in this one (autograd's threads, a GPU) does
    not survive a fork."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        fresh.submit(twenty_kills, folder, tmp_path).result()


def twenty_kills(folder, tmp_path):
    """SIGKILL at twenty random moments, half of them inside checkpoint writing; bit for bit."""
    torch.set_num_threads(1)
    moments = random.Random(5)
    changes = {"train.iterations": 60, "train.validate_every": 7, "train.checkpoint_every": 3}
    whole = recipe(folder, **changes, **{"train.ema": 0.9})
    fit(whole, tmp_path / "whole")
    out = tmp_path / "killed"

    def go():
        fit(None if (out / "recipe.yaml").exists() else whole, out, (out / "recipe.yaml").exists())

    why, kills, reached = tmp_path / "why.txt", 0, []
    while kills < 20:
        inside = kills % 2 == 0
        status = killed_child(
            go, moments.uniform(0.3, 1.5), moments.randint(1, 12) if inside else None, why
        )
        assert os.WIFSIGNALED(status) or status == 0, f"the run failed: {why.read_text()}"
        kills += 1
        state = out / "state.ckpt"
        reached.append(read_iteration(state))  # raises for a damaged one
        if (out / "last/config.json").exists():
            load_model(out)
    assert reached == sorted(reached)
    assert reached[-1] > reached[0], "no kill came after a checkpoint"
    fit(None, out, resume=True)
    assert same(weights(tmp_path / "whole"), weights(out))
    states = [torch.load(p / "state.ckpt", weights_only=True) for p in (tmp_path / "whole", out)]
    assert same(*(state["state_dict"] for state in states))
    logs = [(p / "logs/train.csv").read_text() for p in (tmp_path / "whole", out)]
    assert logs[0] == logs[1]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_saves_and_has_an_exit_code_of_its_own(folder, tmp_path, number, code, workers):
    """Ctrl-C, and what schedulers send, to those that load images too; it says how to go on."""
    long = recipe(folder, **LONG, **{"train.checkpoint_every": 100_000, "train.workers": workers})
    (tmp_path / "long.yaml").write_text(long.yaml())
    process = start_training(tmp_path / "long.yaml", tmp_path / "run")
    wait_for_iteration(process, tmp_path / "run", 3)
    assert len(process.children()) == workers
    process.send_all(number)
    ended = process.end(120)
    assert ended.code == code
    assert "Traceback" not in ended.err
    last = ended.err.strip().splitlines()[-1]
    assert "all is saved; go on with: hfgd train --resume --out" in last
    assert f"iteration {read_iteration(tmp_path / 'run/state.ckpt')} of 100000" in last
    assert load_model(tmp_path / "run")


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_checkpoint(folder, tmp_path):
    """A limit on the size of files stands for the disk's: the state outgrows it, the logs do not."""
    (tmp_path / "long.yaml").write_text(
        recipe(folder, **LONG, **{"train.checkpoint_every": 4}).yaml()
    )
    process = start_training(tmp_path / "long.yaml", tmp_path / "run")
    state = tmp_path / "run/state.ckpt"
    deadline = time.monotonic() + 120
    while not state.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    limit = state.stat().st_size // 2
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    ended = process.end(120)
    assert ended.code == 3
    assert "Traceback" not in ended.err
    last = ended.err.strip().splitlines()[-1]
    assert "the disk is full while writing" in last
    assert f"the last good checkpoint is {state} (iteration {read_iteration(state)})" in last
    assert not list((tmp_path / "run").rglob("*.part"))
    load_model(tmp_path / "run")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: shutil.rmtree(data / "images"), "images/train/train"),
        (
            lambda data: [p.write_bytes(b"no image") for p in data.glob("images/train/*")],
            "train/train",
        ),
    ],
    ids=["vanished", "corrupt"],
)
def test_data_that_goes_bad_mid_run_ends_in_a_sentence(
    folder, tmp_path, monkeypatch, damage, says, workers
):
    from hfgd.training.callbacks import CsvLog

    add = CsvLog.add

    def added(self, done, values):
        add(self, done, values)
        if done == 4:
            damage(folder)

    monkeypatch.setattr(CsvLog, "add", added)
    long = recipe(folder, **LONG, **{"train.workers": workers})
    with pytest.raises(TrainingStopped) as stopped:
        fit(long, tmp_path / "run")
    text = str(stopped.value)
    assert says in text
    assert "\n" not in text
    assert f"the last good checkpoint is {tmp_path / 'run/state.ckpt'}" in text
    assert read_iteration(tmp_path / "run/state.ckpt") >= 2


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried …"), "the GPU's memory is full"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            "loads images died",
        ),
        (OSError(5, "Input/output error", "x.png"), "reading or writing failed"),
        (OSError(28, "No space left on device", "x.ckpt"), "disk is full while writing 'x.ckpt'"),
    ],
)
def test_what_ends_a_run_is_one_sentence(tmp_path, error, says):
    with pytest.raises(TrainingStopped, match=says) as stopped, explained(RunFolder(tmp_path)):
        raise error
    assert "no checkpoint had been written yet" in str(stopped.value)


def test_our_own_mistakes_keep_their_traceback(tmp_path):
    with pytest.raises(RuntimeError, match="shape"), explained(RunFolder(tmp_path)):
        raise RuntimeError("shape mismatch")


def test_kept_models_are_those_of_their_iterations(folder, tmp_path):
    fit(recipe(folder, **{"train.keep_every": 4}), tmp_path / "run")
    kept = sorted(p.name for p in (tmp_path / "run/kept").iterdir())
    assert kept == ["0000004", "0000008"]
    assert same(weights(tmp_path / "run"), weights_of(tmp_path / "run/kept/0000008"))
    assert not same(weights(tmp_path / "run"), weights_of(tmp_path / "run/kept/0000004"))
    facts = json.loads((tmp_path / "run/kept/0000004/config.json").read_text())["facts"]
    assert facts["iteration"] == 4


def weights_of(model):
    from safetensors.torch import load_file

    return load_file(model / "model.safetensors")


@pytest.mark.slow
def test_deterministic_runs_are_the_same_bit_for_bit(folder, tmp_path):
    """With several threads and loader workers."""
    torch.set_num_threads(2)
    settings = {"train.deterministic": True, "train.workers": 2, "train.iterations": 4}
    try:
        for name in ("a", "b"):
            fit(recipe(folder, **settings), tmp_path / name)
            assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
