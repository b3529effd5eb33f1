"""Two processes on gloo: one set of batch-norm statistics, and a finished run that lost its report."""

import json
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from conftest import recipe, same, weights
from hfgd.training import fit as fitting
from hfgd.training.fit import fit
from test_distributed import free_port, make_folder

CHANGES = {"train.batch_size": 2, "train.iterations": 4, "train.validate_every": 2}


def worker(rank, port, data, out, results):
    """One of two processes: a run whose batch norms learn, then the same run without its report."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    scored = []
    evaluate, labeller = fitting.evaluate, fitting.NetworkLabeller

    def scoring(asked, dataset, **named):
        scores = evaluate(asked, dataset, **named)
        scored.append(scores.matrix)
        return scores

    def labelling(network, **named):
        """What is about to validate."""
        buffers.append({name: buffer.clone() for name, buffer in network.named_buffers()})
        return labeller(network, **named)

    fitting.evaluate, fitting.NetworkLabeller = scoring, labelling
    for name, more in (("plain", {}), ("average", {"train.ema": 0.5})):
        buffers: list = []
        fit(recipe(data, **CHANGES, **more), out / name)
        results["buffers", name, rank] = [
            {key: value.numpy() for key, value in each.items()} for each in buffers
        ]
    dist.barrier()
    if rank == 0:
        for name in ("report.json", "report.md", "panels.png", "confusion.png"):
            (out / "plain" / name).rename(out / f"before-{name}")
    dist.barrier()
    scored.clear()
    fit(None, out / "plain", resume=True)
    results["again", rank] = scored
    dist.destroy_process_group()


pytestmark = pytest.mark.slow  # processes are started for them


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    data = make_folder(out)
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(worker, (free_port(), data, out, results), nprocs=2)
        yield out, dict(results)


@pytest.mark.parametrize("name", ["plain", "average"])
def test_both_validate_with_the_same_statistics(two, name):
    """They see different images, so that their own statistics differ."""
    _, results = two
    zero, one = (results["buffers", name, rank] for rank in (0, 1))
    assert len(zero) == len(one) >= 2  # validated after iterations 2 and 4
    for mine, theirs in zip(zero, one, strict=True):
        assert any(key.endswith("running_mean") for key in mine)
        assert mine.keys() == theirs.keys()
        for key in mine:
            assert np.array_equal(mine[key], theirs[key]), key
    moved = [key for key in zero[0] if key.endswith("running_mean")]
    assert any(not np.array_equal(zero[0][key], zero[1][key]) for key in moved)


def test_a_finished_run_without_a_report_gets_one(two):
    out, results = two
    before, after = (
        json.loads((out / name).read_text()) for name in ("before-report.json", "plain/report.json")
    )
    assert after["confusion"] == before["confusion"]
    assert after["images"] == 5
    assert (out / "plain/panels.png").is_file()
    assert len(results["again", 0]) == len(results["again", 1]) == 1
    for rank in (0, 1):
        assert np.array_equal(results["again", rank][0], np.array(before["confusion"]))


def test_one_process_gives_that_run_the_same_report(two):
    """The saved weights are those that both scored."""
    out, _ = two
    kept = weights(out / "plain")
    run = fit(None, out / "plain", resume=True)
    assert same(kept, weights(out / "plain"))
    assert np.array_equal(
        run.report.scores.matrix, json.loads((out / "before-report.json").read_text())["confusion"]
    )
