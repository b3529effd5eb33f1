"""``hfgd review RUN --unlabelled FOLDER``: which images are worth labelling next.

``entropy`` and ``margin``: of which the model is least sure, by the mean over the pixels. ``diverse``:
greedy k-centre on the mean high-level feature [Sener & Savarese, arXiv 1708.00489]: each next image is
the one furthest from all chosen so far, from labelled ones too where some are given. ``random``: what
the others have to beat.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hfgd.data.images import images_below, read_image
from hfgd.data.loader import EvalBatches
from hfgd.errors import HfgdError
from hfgd.files import write_text
from hfgd.inference.labeller import InferenceConfig, Labeller, open_labeller, origin
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.parallel.device import finest_float
from hfgd.progress import Progress
from hfgd.review.jsonl import JsonRows, Row, claim
from hfgd.review.pool import ReviewSet
from hfgd.text import csv_text

By = Literal["entropy", "margin", "diverse", "random"]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """The images to label next, in their order, with what speaks for each; and what failed."""

    files: list[Path]
    scores: list[float | None]
    failed: list[str] = field(default_factory=list)


def choose_next(
    run: str,
    folder: Path,
    count: int,
    by: By,
    how: InferenceConfig,
    out: Path,
    labelled: ReviewSet | None = None,
    seed: int = 0,
) -> Choice:
    """Choose ``count`` images below ``folder``; writes next.csv, next.txt and lists/.

    ``labelled``: images that 'diverse' keeps away from. An image that cannot be read is passed over
    and named. What an earlier call looked at is not looked at again.
    """
    if not folder.is_dir():
        raise HfgdError(f"there is no folder '{folder}'; --unlabelled takes a folder of images.")
    files = images_below(folder)
    if not files:
        raise HfgdError(f"there are no images in '{folder}'.")
    keys = [path.relative_to(folder).as_posix() for path in files]
    failed: list[str] = []
    if by == "random":
        order = np.random.default_rng(seed).permutation(len(files))[:count]
        chosen: list[tuple[int, float | None]] = [(int(i), None) for i in order]
    else:
        rows = _looked_at(run, dict(zip(keys, files, strict=True)), by, how, out, labelled, failed)
        place = {key: i for i, key in enumerate(keys)}
        seen = [row for row in rows if row["key"] in place]
        if by == "diverse":
            near = [_vector(row) for row in rows if row["key"].startswith(LABELLED)]
            picked = furthest([_vector(row) for row in seen], near, count)
        else:
            worst = sorted(range(len(seen)), key=lambda i: (-seen[i][by], seen[i]["key"]))[:count]
            picked = [(i, seen[i][by]) for i in worst]
        chosen = [(place[seen[i]["key"]], score) for i, score in picked]
    choice = Choice([files[i] for i, _ in chosen], [score for _, score in chosen], failed)
    _write(choice, [keys[i] for i, _ in chosen], by, out)
    return choice


LABELLED = "labelled:"  # before the keys of images that have labels


def _looked_at(
    run: str,
    files: dict[str, Path],
    by: By,
    how: InferenceConfig,
    out: Path,
    labelled: ReviewSet | None,
    failed: list[str],
) -> list[Row]:
    """A row for each image, those of an earlier call included."""
    labeller = open_labeller(run, how)
    weights = origin(run).weights
    with_features = by == "diverse"
    what = {
        "model": str(weights.resolve()),
        "written": weights.stat().st_mtime_ns,
        "protocol": labeller.protocol.model_dump(mode="json"),
        "features": with_features,
    }
    claim(out, what)
    rows = JsonRows(out / "images.jsonl")
    missing = [key for key in files if key not in rows.done]
    if with_features and labelled is not None:
        _features_of(labeller, labelled, rows)
    with Progress("looking", len(files), len(files) - len(missing)) as progress:
        for number, key in enumerate(missing, start=1 + len(files) - len(missing)):
            progress.update(number)
            try:
                pixels = read_image(files[key])
            except HfgdError as error:
                failed.append(str(error))
                continue
            image = torch.from_numpy(pixels).permute(2, 0, 1)
            rows.add({"key": key, **look(labeller, image, with_features)})
    return list(rows)


def _features_of(labeller: Labeller, pool: ReviewSet, rows: JsonRows) -> None:
    keys = [LABELLED + key for key in pool.keys]
    with Progress("looking at labelled images", len(pool)) as progress:
        for done, (key, sample) in enumerate(zip(keys, EvalBatches(pool), strict=True), start=1):
            if key not in rows.done:
                rows.add({"key": key, **look(labeller, sample.image, True)})
            progress.update(done)


def look(labeller: Labeller, image: Tensor, with_feature: bool) -> Row:
    """Mean entropy and margin of an image's pixels in [0, 1], 1 being least sure; its feature."""
    sums = torch.zeros(2, dtype=torch.float64)

    def add(rows: slice, scores: Tensor) -> Tensor:
        log_p = scores.log_softmax(-1)
        p = log_p.exp()
        entropy = -(p * log_p).nan_to_num().sum(-1) / max(np.log(scores.shape[-1]), 1e-9)
        two = p.topk(min(2, p.shape[-1]), -1).values
        margin = 1 - (two[..., 0] - two[..., -1]) if p.shape[-1] > 1 else torch.zeros_like(entropy)
        exact = finest_float(scores.device)
        sums.add_(torch.stack([entropy.sum(dtype=exact), margin.sum(dtype=exact)]).cpu())
        return scores.new_empty(*scores.shape[:2], 0)

    row: Row = {}
    if not with_feature:
        labeller.reduced(image, add)
    elif isinstance(labeller, NetworkLabeller):
        feature = labeller.high_level_feature(image, add).cpu().numpy()
        row["feature"] = base64.b85encode(feature.astype(np.float16).tobytes()).decode()
    else:
        raise HfgdError("--by diverse needs a run folder: an exported file has no features to see.")
    entropy, margin = (sums / (image.shape[1] * image.shape[2])).tolist()
    return {"entropy": entropy, "margin": margin, **row}


def _vector(row: Row) -> Features:
    return np.frombuffer(base64.b85decode(row["feature"]), dtype=np.float16).astype(np.float32)


def furthest(
    features: Sequence[Features], near: Sequence[Features], count: int
) -> list[tuple[int, float | None]]:
    """Greedy k-centre: places and distances to the nearest centre then, ``near`` being centres too.

    Without any the first is the one nearest to the mean, whose distance is None.
    """
    if not len(features):
        return []
    x = np.stack(features)
    centres = np.stack(near) if len(near) else np.empty((0, x.shape[1]), dtype=np.float32)
    scale = np.concatenate([x, centres]).std(0) + 1e-6
    x, centres = x / scale, centres / scale
    distance = np.full(len(x), np.inf)
    for centre in centres:
        distance = np.minimum(distance, np.linalg.norm(x - centre, axis=1))
    chosen: list[tuple[int, float | None]] = []
    for _ in range(min(count, len(x))):
        if chosen or len(centres):
            place = int(distance.argmax())
            chosen.append((place, float(distance[place])))
        else:
            place = int(np.linalg.norm(x - x.mean(0), axis=1).argmin())
            chosen.append((place, None))
        distance = np.minimum(distance, np.linalg.norm(x - x[place], axis=1))
        distance[place] = -1
    return chosen


def _write(choice: Choice, keys: list[str], by: By, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows: list[list[object]] = [["rank", "image", "distance" if by == "diverse" else by]]
    for rank, (key, score) in enumerate(zip(keys, choice.scores, strict=True), start=1):
        rows.append([rank, key, "" if score is None else f"{score:.6g}"])
    write_text(out / "next.csv", csv_text(rows))
    write_text(out / "next.txt", "".join(f"{path}\n" for path in choice.files))
    tasks = [{"data": {"image": f"/data/local-files/?d={quote(key)}"}} for key in keys]
    (out / "lists").mkdir(exist_ok=True)
    write_text(out / "lists" / "labelstudio.json", json.dumps(tasks, indent=1) + "\n")
