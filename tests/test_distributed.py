"""Two processes on gloo do what one does; a dead one ends the run."""

import json
import os
import signal
import socket
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from conftest import recipe, toy, wait_for_iteration, weights
from hfgd.data.scenes import ScenesDataset
from hfgd.errors import HfgdError
from hfgd.evaluation.scoring import evaluate
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.losses.car import car_terms
from hfgd.parallel.launch import take_part
from hfgd.parallel.processes import joining
from hfgd.training.failures import Terminated
from hfgd.training.fit import fit
from processes import Command


def scored():
    torch.manual_seed(0)
    dataset = ScenesDataset("val", 5, size=(40, 56))  # five images: not divisible by two
    model = toy(classes=9)
    object.__setattr__(model, "classes", dataset.classes)
    scores = evaluate(NetworkLabeller(model), dataset, boundary=0.02)
    return scores.matrix, scores.boundary, scores.images.names, scores.images.counts


def car_input():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 5, 3, 4, generator=generator) * 3
    label = torch.randint(0, 4, (2, 3, 4), generator=generator)
    label[0, 0] = 255  # the processes have different numbers of labelled pixels
    return features, label


def car_gradients(features, label):
    """Values and gradients of the three terms."""
    features = features.clone().requires_grad_()
    terms = car_terms(features, label, 4)
    gradients = {
        name: torch.autograd.grad(term, features, retain_graph=True)[0].numpy()
        for name, term in terms.items()
    }
    return {name: term.item() for name, term in terms.items()}, gradients


def with_idle_parameters():
    """A network of a user's with a layer that no loss reaches."""
    from test_training_engine import Volume

    torch.manual_seed(0)
    return Volume()


def worker(rank, port, data, out, results):
    """What each of two processes does, as torchrun would have started it."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    with joining("cpu"):
        features, label = car_input()
        results["scores", rank] = scored()
        results["car", rank] = car_gradients(features[rank : rank + 1], label[rank : rank + 1])
    fit(resting(data), out / "two")
    fit(resting(data), out / "idle-two", network=with_idle_parameters())
    fit(None, out / "stopped", resume=True)  # one process had begun it
    results["done", rank] = True
    if dist.is_initialized():
        dist.destroy_process_group()


def resting(data):
    """Batch norms keep their statistics, so that a process needs no other's images for them."""
    changes = {"train.batch_size": 4, "train.freeze": ["batch_norm"], "train.iterations": 6}
    return recipe(data, **changes, **{"train.checkpoint_every": 3, "optim.clip_norm": 5.0})


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes made, and what one made of the same."""
    out = tmp_path_factory.mktemp("two")
    data = make_folder(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hfgd.training.callbacks.CsvLog.add", stopping_at(4))
        with pytest.raises(Terminated):
            fit(resting(data), out / "stopped")
    torch.set_num_threads(1)
    fit(resting(data), out / "one")
    fit(resting(data), out / "idle-one", network=with_idle_parameters())
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(worker, (free_port(), data, out, results), nprocs=2)
        yield out, dict(results)


def stopping_at(iteration):
    """Logging that asks the run to stop, as a scheduler would."""
    from hfgd.training.callbacks import CsvLog

    add = CsvLog.add

    def added(self, done, values):
        add(self, done, values)
        if done == iteration:
            os.kill(os.getpid(), signal.SIGTERM)

    return added


def make_folder(out):
    """Three train and five val images with ignored pixels, of one size."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 5)):
        for i in range(count):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            ids = rng.choice([0, 1, 2, 99], (40, 50), p=[0.2, 0.3, 0.1, 0.4]).astype(np.uint8)
            ids[: 8 * i] = 99
            for kind, content in (("images", pixels), ("labels", ids)):
                folder = out / "data" / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(folder / f"{split}{i}.png")
    text = "classes: [a, b, c]\nlabel_map: {0: a, 1: b, 2: c, 99: ignore}\n"
    (out / "data" / "data.yaml").write_text(text)
    return out / "data"


@pytest.mark.slow
def test_each_image_counts_once_over_processes(two):
    _, results = two
    matrix, boundary, names, counts = scored()
    for rank in (0, 1):
        theirs = results["scores", rank]
        assert np.array_equal(theirs[0], matrix)
        assert np.array_equal(theirs[1], boundary)
        assert theirs[2] == names
        assert np.array_equal(theirs[3], counts)


@pytest.mark.slow
@pytest.mark.parametrize("term", ["c2c", "c2p", "intra"])
def test_car_is_that_of_one_process(two, term):
    """Value and gradient; DDP averages the gradients of the processes."""
    _, results = two
    values, gradients = car_gradients(*car_input())
    for rank in (0, 1):
        theirs, slopes = results["car", rank]
        np.testing.assert_allclose(theirs[term], values[term], rtol=1e-6)
        expected = gradients[term][rank : rank + 1]
        np.testing.assert_allclose(slopes[term] / 2, expected, rtol=1e-4, atol=1e-8)


def table(path):
    return np.loadtxt(path, delimiter=",", skiprows=1)


@pytest.mark.slow
def test_two_processes_train_as_one(two):
    """The same losses at every iteration and the same weights at the end, to fp32 rounding."""
    out, _ = two
    np.testing.assert_allclose(
        table(out / "two/logs/train.csv"), table(out / "one/logs/train.csv"), rtol=2e-4
    )
    one, both = weights(out / "one"), weights(out / "two")
    assert one.keys() == both.keys()
    for key in one:
        torch.testing.assert_close(both[key], one[key], rtol=1e-3, atol=1e-5)
    for name in ("one", "two"):  # each of the five images once: all labelled pixels are counted
        report = json.loads((out / name / "report.json").read_text())
        assert report["images"] == 5
        assert np.sum(report["confusion"]) == labelled_pixels(out / "data")
    assert json.loads((out / "two/environment.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_idle_parameters_train_over_processes_as_alone(two):
    """DDP waits for the gradients of all parameters unless it is told to look."""
    out, _ = two
    one, both = weights(out / "idle-one"), weights(out / "idle-two")
    for key in one:
        torch.testing.assert_close(both[key], one[key], rtol=1e-3, atol=1e-5)


def labelled_pixels(data):
    from hfgd.data.open import open_dataset

    val = open_dataset(str(data), "val")
    return sum(int((val[i].label != 255).sum()) for i in range(len(val)))


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(two):
    out, _ = two
    assert [int(row[0]) for row in table(out / "stopped/logs/train.csv")] == [1, 2, 3, 4, 5, 6]
    one, both = weights(out / "one"), weights(out / "stopped")
    for key in one:
        torch.testing.assert_close(both[key], one[key], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_dead_process_ends_the_run_in_a_sentence(folder, tmp_path):
    """SIGKILL for one of two: no hang, an exit code, the last good checkpoint named."""
    long = {"train.iterations": 100_000, "train.validate_every": 100_000}
    (tmp_path / "toy.yaml").write_text(recipe(folder, **long).yaml())
    command = ["hfgd", "train", tmp_path / "toy.yaml", "--devices", 2, "--out", tmp_path / "run"]
    process = Command(command)
    wait_for_iteration(process, tmp_path / "run", 3)
    ranks = [pid for pid in process.children() if b"RANK=1" in environ(pid)]
    os.kill(ranks[0], signal.SIGKILL)
    began = time.monotonic()
    ended = process.end(120)
    errors = ended.err
    assert time.monotonic() - began < 60
    assert ended.code == 137
    assert "Traceback" not in errors
    assert f"the last good checkpoint is {tmp_path / 'run/state.ckpt'} (iteration" in errors
    assert errors.strip().splitlines()[-1] == (
        "hfgd: process 1 of 2 ended killed by SIGKILL, and the others were stopped."
    )


def environ(pid):
    """The process's environment, with its own rank (not that of a group) as RANK=…"""
    with open(f"/proc/{pid}/environ", "rb") as file:
        variables = file.read().split(b"\0")
    return b"\n".join(v for v in variables if v.startswith(b"RANK="))


def test_slurm_says_who_is_who(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # restored afterwards, whatever take_part sets
        monkeypatch.delenv(name)
    assert not take_part()
    slurm = {
        "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1", "SLURM_JOB_ID": "41234", "SLURM_NODELIST": "node[07-08]",
        "SLURM_JOB_NAME": "train", "SLURM_NTASKS_PER_NODE": "4",
    }  # fmt: skip
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert take_part()
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["LOCAL_RANK"]) == (
        "5",
        "8",
        "1",
    )
    assert os.environ["MASTER_ADDR"] == "node07"
    assert int(os.environ["MASTER_PORT"]) > 10_000
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(HfgdError, match="--ntasks-per-node"):
        take_part()
