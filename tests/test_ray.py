"""An engine: two local Ray nodes, a killed worker, scores summed exactly."""

import os
import runpy
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from conftest import check_same_files, toy
from hfgd.data.classes import ClassSet
from hfgd.data.open import open_dataset
from hfgd.evaluation.evaluate_model import EvalConfig
from hfgd.evaluation.scoring import Tally, evaluate, gathered
from hfgd.inference.labeller import InferenceConfig
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.model.build import build
from hfgd.predict import predict_files
from hfgd.ray import RayLabeller, Save, begin, end

ABC = ClassSet.of(["a", "b", "c"])
EXAMPLE = Path(__file__).parents[1] / "examples" / "ray_predict.py"


@pytest.fixture
def model(tmp_path):
    return str(build(toy(width=16).config.model, ABC).save(tmp_path / "model"))


@pytest.fixture
def pictures(model, tmp_path):
    """60 of noise in which no pixel's two best classes tie: Ray's workers have other numbers of
    threads than this process, and thus round otherwise."""
    rng = np.random.default_rng(0)
    labeller = NetworkLabeller(build_from(model))
    (tmp_path / "in").mkdir()
    kept = 0
    while kept < 60:
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        best = labeller.reduced(image, lambda rows, scores: scores).topk(2).values
        if (best[..., 0] - best[..., 1]).min() > 4e-5:
            Image.fromarray(pixels).save(tmp_path / f"in/{kept:02}.png")
            kept += 1
    return tmp_path / "in"


def labels(out):
    return {p.name: p.read_bytes() for p in (out / "labels").iterdir()}


def manifest(out):
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_rows_in_and_rows_out_without_ray(model, pictures, tmp_path):
    """The callables alone: what predict writes; from bytes too; a row that comes twice counts once."""
    predict_files(model, [pictures], tmp_path / "one", InferenceConfig(precision="fp32"))
    paths = [str(p) for p in sorted(pictures.iterdir())[:6]]
    (tmp_path / "broken.png").write_bytes(b"no PNG")
    batch = {
        "path": np.array([*paths, str(tmp_path / "broken.png")], dtype=object),
        "target": [*(Path(p).name for p in paths), "broken.png"],
    }
    labeller = RayLabeller(model, precision="fp32")
    rows = labeller(batch)
    assert rows["error"][:6] == [""] * 6
    assert "broken.png" in rows["error"][6]
    wanted = labels(tmp_path / "one")
    assert rows["label"][:6] == [wanted[Path(p).name] for p in paths]
    data = [Path(p).read_bytes() for p in paths]
    again = labeller({"path": paths, "bytes": data})
    assert again["label"] == rows["label"][:6]
    assert "bytes" not in again
    begin(str(tmp_path / "out"), model, InferenceConfig(precision="fp32"))
    for _ in range(2):
        Save(str(tmp_path / "out"))(rows)
    merged = end(str(tmp_path / "out"), 7, 1)
    assert (merged.labels, merged.failed, merged.missing) == (6, 1, [])
    assert manifest(tmp_path / "out") == manifest(tmp_path / "one")[:6]


def test_shares_of_scores_are_the_scores_of_all(folder):
    labeller = NetworkLabeller(build(toy(width=16).config.model, ABC))
    dataset = open_dataset(str(folder), "train")
    whole = evaluate(labeller, dataset, boundary=0.02)
    parts = []
    for rank in range(2):
        tally = Tally(3, 0.02)
        for i in range(rank, len(dataset), 2):
            tally.update(labeller.labels(dataset[i].image), dataset[i].label, dataset[i].name)
        parts.append(tally.share())
    found = gathered(parts, ABC, len(dataset), 0.02)
    assert np.array_equal(found.matrix, whole.matrix)
    assert np.array_equal(found.boundary, whole.boundary)
    assert found.images.names == whole.images.names
    assert np.array_equal(found.images.counts, whole.images.counts)


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes, of three cores as they are told."""
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*sys.path, str(Path(__file__).parent)]))
    import ray
    from ray.cluster_utils import Cluster

    size = 150_000_000
    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 3, "object_store_memory": size, "include_dashboard": False},
    )
    found.add_node(num_cpus=3, object_store_memory=size)
    ray.init(address=found.address, log_to_driver=False)
    yield found
    ray.shutdown()
    found.shutdown()


class Told(RayLabeller):
    """A labeller that says which process it lives in, and takes its time."""

    def __init__(self, model, folder):
        super().__init__(model, precision="fp32")
        import ray

        self.folder = Path(folder)
        place = ray.get_runtime_context().get_node_id()
        (self.folder / str(os.getpid())).write_text(place)

    def __call__(self, batch):
        time.sleep(0.15)
        rows = super().__call__(batch)
        with (self.folder / "calls").open("a") as calls:
            calls.write("".join(f"{os.getpid()} {path}\n" for path in rows["path"]))
        return rows


@pytest.mark.slow
def test_a_killed_worker_on_two_nodes(cluster, model, pictures, tmp_path, run, folder, monkeypatch):
    """Complete, nothing twice, what one process gives; then the example, and scores."""
    import ray

    predict_files(model, [pictures], tmp_path / "one", InferenceConfig(precision="fp32"))
    told = tmp_path / "told"
    told.mkdir()
    out = str(tmp_path / "ray")
    begin(out, model, InferenceConfig(precision="fp32"))
    rows = ray.data.from_items(
        [{"path": str(p), "target": p.name} for p in sorted(pictures.iterdir())]
    )
    labelled = rows.map_batches(
        Told,
        fn_constructor_args=[model, str(told)],
        batch_size=2,
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=2,  # one on each node
    )
    saved = labelled.map_batches(
        Save, fn_constructor_args=[out], batch_size=4, num_cpus=0.1,
        compute=ray.data.ActorPoolStrategy(size=1),
    )  # fmt: skip
    done, killed = [], None
    for batch in saved.iter_batches(batch_size=4):
        done += list(batch["path"])
        if killed is None:
            killed = (told / "calls").read_text().split()[-2]
            os.kill(int(killed), signal.SIGKILL)
    workers = [p for p in told.iterdir() if p.name.isdecimal()]
    assert len({p.read_text() for p in workers}) == 2  # both nodes
    assert len(workers) >= 3  # a third took the place of the killed one
    assert sorted(done) == sorted(map(str, pictures.iterdir()))
    merged = end(out, len(done), 0)
    assert merged.labels == 60
    check_same_files(labels(tmp_path / "ray"), labels(tmp_path / "one"))
    assert manifest(tmp_path / "ray") == manifest(tmp_path / "one")

    table = pa.table({
        "path": [p.name for p in sorted(pictures.iterdir())],
        "bytes": [p.read_bytes() for p in sorted(pictures.iterdir())],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "images.parquet")
    for source in (pictures, tmp_path / "images.parquet"):
        words = [str(EXAMPLE), model, str(source), "--out", str(tmp_path / source.stem)]
        words += ["--precision", "fp32"]  # as the run it is compared with
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        check_same_files(labels(tmp_path / source.stem), labels(tmp_path / "one"))
        assert len(manifest(tmp_path / source.stem)) == 60

    from hfgd.ray import score

    what = EvalConfig(str(folder), "train", workers=0)
    found = score(model, what, InferenceConfig(), shares=3)
    whole = evaluate(NetworkLabeller(build_from(model)), what.dataset(), boundary=what.boundary)
    assert np.array_equal(found.matrix, whole.matrix)
    assert np.array_equal(found.boundary, whole.boundary)
    assert np.array_equal(found.images.counts, whole.images.counts)
    words = ["eval", model, "--data", folder, "--workers", 0, "--out"]
    assert run(*words, tmp_path / "e1")[0] == 0
    code, _, err = run(*words, tmp_path / "e2", "--engine", "ray")
    assert code == 0, err
    first, second = ((tmp_path / name / "report.json").read_text() for name in ("e1", "e2"))
    assert first == second


def build_from(path):
    import hfgd

    return hfgd.load(path)
