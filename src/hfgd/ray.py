"""An engine for many machines: a callable class for Ray Data, and scores summed over a cluster.

Ray is an extra (``hfgd[ray]``); ``examples/ray_predict.py`` is the whole way from images to labels.
"""

import io
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from hfgd.data.archive import Packed
from hfgd.data.images import read_image
from hfgd.data.prediction import palette_image
from hfgd.errors import HfgdError
from hfgd.inference.confidence import label
from hfgd.inference.labeller import InferenceConfig, open_labeller
from hfgd.inference.labeller import Labeller as Opened
from hfgd.predict.image_rows import ImageRow, count_classes, say_ended, write_rows
from hfgd.predict.inputs import Failed, InputImage, read_item
from hfgd.predict.manifest import Merged, merge
from hfgd.predict.shards import Shard
from hfgd.predict.storage import open_place
from hfgd.predict.writer import claim
from hfgd.types import Precision

if TYPE_CHECKING:
    from hfgd.data.dataset import SegDataset
    from hfgd.evaluation.evaluate_model import EvalConfig
    from hfgd.evaluation.scores import Scores
    from hfgd.evaluation.scoring import Share

FACTS = {
    "height": np.int64,
    "width": np.int64,
    "seconds": np.float64,
    "mean_confidence": np.float64,
}
Rows = dict[str, Any]  # columns: an array, or a list, with one value a row


class RayLabeller:
    """Rows with ``path`` (a file, or an address of fsspec), or with ``path`` and ``bytes``, → the same
    rows without ``bytes`` and with their labels.

    ``label``: a palette PNG as bytes; ``height``, ``width``, ``seconds`` (of the network),
    ``mean_confidence`` (NaN where an exported file gives labels alone), ``pixels`` (of each class,
    int64), ``error``: why an image could not be labelled, else empty. Give it to ``map_batches``:

        dataset.map_batches(Labeller, fn_constructor_args=["runs/mine"], batch_size=8,
                            compute=ray.data.ActorPoolStrategy(size=4), num_gpus=1)

    One object is made in each worker, so the model is opened once there.
    """

    def __init__(
        self,
        model: str,
        protocol: str = "ss",
        device: str | None = None,
        precision: Precision = "auto",
        code: Path | None = None,
    ) -> None:
        how = InferenceConfig(protocol, None, device, precision, code=code)
        self._labeller = open_labeller(str(model), how)

    def __call__(self, batch: Rows) -> Rows:
        paths = [str(path) for path in batch["path"]]
        datas = batch.get("bytes", [None] * len(paths))
        rows = [self._row(path, data) for path, data in zip(paths, datas, strict=True)]
        found = {
            "label": [row["label"] for row in rows],
            "pixels": np.stack([row["pixels"] for row in rows]),
            "error": [row["error"] for row in rows],
        }
        for name, kind in FACTS.items():
            found[name] = np.array([row[name] for row in rows], dtype=kind)
        return {name: values for name, values in batch.items() if name != "bytes"} | found

    def _row(self, path: str, data: Any) -> Mapping[str, Any]:
        classes = self._labeller.classes
        try:
            if data is None:
                pixels = read_item(InputImage(path, ""))
            else:
                packed = Packed(path, PurePosixPath(path).name, partial(bytes, data))
                pixels = read_image(packed)
            found = label(self._labeller, pixels)
        except (
            HfgdError
        ) as error:  # of the image; anything else is the worker's, and Ray tries again
            nothing = dict.fromkeys(FACTS, 0) | {"mean_confidence": np.nan}
            pixels_of = np.zeros(len(classes), dtype=np.int64)
            return {"label": b"", "pixels": pixels_of, "error": str(error), **nothing}
        file = io.BytesIO()
        palette_image(found.labels, classes).save(file, "PNG")
        return {
            "label": file.getvalue(),
            "pixels": np.array(count_classes(found.labels, len(classes)), dtype=np.int64),
            "error": "",
            "height": found.labels.shape[0],
            "width": found.labels.shape[1],
            "seconds": found.seconds,
            "mean_confidence": np.nan if found.confidence is None else found.confidence,
        }


def begin(out: str, model: str, how: InferenceConfig) -> None:
    """Claim ``out`` for a model, as ``hfgd predict`` does; HfgdError where it holds other results."""
    claim(open_place(out), model, open_labeller(model, how.on("cpu")), 0.5, {})


def end(out: str, images: int, failed: int) -> Merged:
    """Write the manifest and failed.csv of everything that Save has written."""
    say_ended(open_place(out), images, failed, Shard())
    return merge(out)


class Save:
    """Rows of a Labeller, which has been begun, → ``path``, ``label`` and ``error``.

    The label maps go to ``out/labels`` under the row's ``target`` (as ``hfgd.predict.find_images``
    gives it), or under its path. A row that comes twice writes the same file twice, and the manifest
    has it once: nothing is doubled where a worker died.
    """

    def __init__(self, out: str) -> None:
        self._place = open_place(out)

    def __call__(self, batch: Rows) -> Rows:
        paths = [str(path) for path in batch["path"]]
        names = (
            [str(t) for t in batch["target"]] if "target" in batch else list(map(target_of, paths))
        )
        rows, failed = [], []
        for i, (name, path, error) in enumerate(zip(names, paths, batch["error"], strict=True)):
            if error:
                failed.append(Failed(path, str(error), name))
                continue
            mean = float(batch["mean_confidence"][i])
            size = (int(batch["height"][i]), int(batch["width"][i]))
            counts = [int(n) for n in batch["pixels"][i]]
            known = None if np.isnan(mean) else mean
            rows.append(ImageRow(name, path, *size, float(batch["seconds"][i]), known, counts))
        write_rows(self._place, rows, failed)  # before the maps: none is without its row
        for name, data in zip(names, batch["label"], strict=True):
            if data:
                self._place.write(f"labels/{name}", bytes(data))
        return {"path": paths, "label": names, "error": [str(error) for error in batch["error"]]}


def target_of(path: str) -> str:
    """The name of a label map whose row says none: the image's path, which leads out of nothing."""
    inside = PurePosixPath(path.partition("://")[2] or path).parts
    return str(PurePosixPath(*(p for p in inside if p not in ("/", ".."))).with_suffix(".png"))


# ---- scores ----------------------------------------------------------------------------------------


def score(
    path: str, what: "EvalConfig", how: InferenceConfig, shares: int | None = None
) -> "Scores":
    """The scores of a data set, each share counted by a task somewhere in the cluster.

    int64 counts are summed, so they are those of one process, bit for bit. A task whose worker dies
    is run again. ``shares``: four for each core, or each GPU where the cluster has some.
    """
    try:
        import ray
    except ImportError as error:
        raise HfgdError("--engine ray needs Ray; pip install 'hfgd[ray]'.") from error
    from hfgd.evaluation.scoring import check_classes, gathered

    ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    dataset = what.dataset()
    labeller = open_labeller(path, how.on("cpu"))
    check_classes(labeller.classes, dataset)
    runtime: Any = ray  # which says no types
    everything = runtime.cluster_resources()
    gpus = int(everything.get("GPU", 0))
    workers = gpus or int(everything.get("CPU", 1))
    count = min(len(dataset), shares or 4 * workers)
    counted = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=3)(_counted)
    where, what = os.path.abspath(path), replace(what, groups=())  # which are for the report
    tasks = [counted.remote(where, what, how, rank, count) for rank in range(count)]
    parts: list[Share] = ray.get(tasks)
    return gathered(parts, labeller.classes, len(dataset), what.boundary)


def _counted(path: str, what: "EvalConfig", how: InferenceConfig, rank: int, count: int) -> "Share":
    """The counts of one share; the model and the list of images stay in the worker."""
    from hfgd.data.loader import EvalBatches
    from hfgd.evaluation.scoring import Tally

    labeller, dataset = _ready(path, what, how)
    tally = Tally(len(labeller.classes), what.boundary)
    for image, truth, name in EvalBatches(dataset, 0, rank, count):
        labels = labeller.labels(image)
        tally.update(labels, truth.to(labels.device), name)
    return tally.share()


@lru_cache(maxsize=1)
def _ready(path: str, what: "EvalConfig", how: InferenceConfig) -> "tuple[Opened, SegDataset]":
    return open_labeller(path, how), what.dataset()
