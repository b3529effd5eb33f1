"""Figure 4: the features that are classified, as UMAP lays them out, and how far classes are apart.

A feature is read where the class tokens read it. Tokens are linear, so that the feature brought to a
pixel bilinearly is what the pixel's logits are made of; all runs are read at the same pixels, which
are drawn from the whole data set (sample.py).
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfgd.data.dataset import SegDataset
from hfgd.errors import HfgdError, unknown
from hfgd.evaluation.evaluate import check_classes
from hfgd.evaluation.run import What, scored
from hfgd.evaluation.scores import Floats, Ints
from hfgd.figures.features_picture import picture
from hfgd.figures.sample import Places, sampled
from hfgd.figures.separation import (
    Features,
    Interval,
    distance_ratio,
    most_confused,
    silhouette,
)
from hfgd.figures.wanted import Run, Wanted, open_runs
from hfgd.inference.networks import NetworkLabeller
from hfgd.model.network import evaluating, place_of
from hfgd.progress import Progress
from hfgd.resample import image_axis


@dataclass(frozen=True)
class Separation:
    """A run: its points on the map (N, 2), and its two numbers over the samples."""

    title: str
    kind: str
    points: Floats
    silhouette: Interval
    ratio: Interval


def draw(wanted: Wanted) -> str:
    """figure4.png, figure4.svg, figure4.csv (a run a line), figure4-points.csv (a pixel a line)."""
    if importlib.util.find_spec("umap") is None:
        raise HfgdError(
            "figure 4 needs umap-learn, which is not installed; pip install 'hfgd[figures]'."
        )
    if wanted.pixels < 2 or wanted.samples < 1:
        raise HfgdError("figure 4 needs at least 2 pixels of a class and 1 sample.")
    runs = open_runs(wanted)
    what = wanted.what()
    dataset = what.dataset()
    check_classes(runs[0].network.classes, dataset)
    chosen = chosen_classes(wanted, runs, what, dataset)
    seeds = range(wanted.seed, wanted.seed + wanted.samples)
    samples = sampled(dataset, chosen, wanted.pixels, seeds)
    names = [dataset.classes.names[k] for k in chosen]
    _check_sample(samples[0], chosen, names, dataset.title)
    features, images = features_at(runs, dataset, samples)
    found = []
    for run, of_samples in zip(runs, features, strict=True):
        pairs = [(x, places.label) for x, places in zip(of_samples, samples, strict=True)]
        silhouettes = Interval.of([silhouette(x, y) for x, y in pairs])
        ratios = Interval.of([distance_ratio(x, y) for x, y in pairs])
        points = on_a_map(of_samples[0], wanted.seed)
        found.append(Separation(run.title, run.kind, points, silhouettes, ratios))
    _write(wanted, found, samples[0], images, dataset.classes.names)
    labels = [names[chosen.index(k)] for k in samples[0].label]
    wanted.save(picture(found, np.array(labels), names, wanted.samples))
    return "\n".join([f"classes: {', '.join(names)}", *map(_sentence, found)])


def chosen_classes(
    wanted: Wanted, runs: Sequence[Run], what: What, dataset: SegDataset
) -> list[int]:
    """The ids of the named classes, or of those that all runs together confuse most."""
    known = dataset.classes.names
    for name in wanted.classes:
        if name not in known:
            raise unknown("class", name, known)
    if wanted.classes:
        chosen = list(dict.fromkeys(known.index(name) for name in wanted.classes))
    else:
        total = np.zeros((len(known), len(known)), dtype=np.int64)
        for run in runs:
            labeller = NetworkLabeller(run.network, branch=run.branch)
            total += scored(labeller, dataset, what, f"confusion of {run.title}").matrix
        chosen = most_confused(total, wanted.most)
    if len(chosen) < 2:
        raise HfgdError("figure 4 compares classes; give two or more with pixels in the data.")
    return chosen


def _check_sample(places: Places, chosen: list[int], names: list[str], title: str) -> None:
    for k, name in zip(chosen, names, strict=True):
        if (places.label == k).sum() < 2:
            raise HfgdError(
                f"class '{name}' has fewer than two labelled pixels in '{title}'; "
                "choose other --classes."
            )


def features_at(
    runs: Sequence[Run], dataset: SegDataset, samples: Sequence[Places]
) -> tuple[list[list[Features]], dict[int, str]]:
    """For each run and each sample the features of its pixels (N, D), in the sample's order.

    With them the names of the images that were read, by their index. Every image goes through every
    network once, whatever the number of samples.
    """
    keys = [np.stack([s.image, s.row, s.column], 1) for s in samples]
    unique, inverse = np.unique(np.concatenate(keys), axis=0, return_inverse=True)
    bounds = np.cumsum([0, *map(len, keys)])
    images, firsts = np.unique(unique[:, 0], return_index=True)
    parts: list[list[Features]] = [[] for _ in runs]
    names: dict[int, str] = {}
    with Progress("reading features", len(images)) as progress:
        for done, (i, places) in enumerate(
            zip(images, np.split(unique, firsts[1:]), strict=True), start=1
        ):
            image, _, names[int(i)] = dataset[int(i)]
            for part, run in zip(parts, runs, strict=True):
                part.append(features_of(run, image, places[:, 1], places[:, 2]))
            progress.update(done)
    found = []
    for part in parts:
        whole = np.concatenate(part)
        indices = inverse.reshape(-1)
        found.append([whole[indices[a:b]] for a, b in pairwise(bounds)])
    return found, names


def features_of(run: Run, image: Tensor, rows: Ints, columns: Ints) -> Features:
    """What the run's tokens classify at some pixels of an image (3, H, W) uint8: (N, D)."""
    network = run.network
    taken: list[Tensor] = []
    handle = run.tokens.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    device, _ = place_of(network)
    try:
        with evaluating(network):
            x = image[None].to(device).float() / 255
            frame = network(x, all_branches=run.branch != "fine").frame
            # the guiding branch asks the tokens first, the fine one last
            maps = taken[0 if run.branch == "guide" else -1][0].float()  # (D, h, w)
            y, x_axis = (image_axis(frame, i, maps.shape[1 + i], maps.device) for i in (0, 1))
            row, column = (torch.from_numpy(a).to(maps.device) for a in (rows, columns))
            weight = x_axis.weight[column]
            above, below = (
                torch.lerp(maps[:, r, x_axis.low[column]], maps[:, r, x_axis.high[column]], weight)
                for r in (y.low[row], y.high[row])
            )
            values: Features = torch.lerp(above, below, y.weight[row]).T.cpu().numpy()
            return values
    finally:
        handle.remove()


def on_a_map(features: Features, seed: int) -> Floats:
    """Features (N, D) → UMAP's two coordinates (N, 2), the same for the same seed."""
    import umap

    neighbours = min(15, len(features) - 1)
    reducer: Any = umap.UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1)
    points: Floats = reducer.fit_transform(features)
    return points


def _write(
    wanted: Wanted,
    found: Sequence[Separation],
    places: Places,
    images: Mapping[int, str],
    classes: Sequence[str],
) -> None:
    wanted.table(
        {
            "run": each.title,
            "network": each.kind,
            "silhouette": each.silhouette.mean,
            "silhouette low": each.silhouette.low,
            "silhouette high": each.silhouette.high,
            "between/within": each.ratio.mean,
            "between/within low": each.ratio.low,
            "between/within high": each.ratio.high,
            "samples": wanted.samples,
            "pixels of a class at most": wanted.pixels,
        }
        for each in found
    )
    wanted.table(
        (
            {
                "run": each.title,
                "image": images[int(places.image[i])],
                "row": int(places.row[i]),
                "column": int(places.column[i]),
                "class": classes[int(places.label[i])],
                "x": float(point[0]),
                "y": float(point[1]),
            }
            for each in found
            for i, point in enumerate(each.points)
        ),
        "points",
    )


def _sentence(each: Separation) -> str:
    s, r = each.silhouette, each.ratio
    return (
        f"{each.title} ({each.kind}): silhouette {s.mean:.3f} ({s.low:.3f} … {s.high:.3f}), "
        f"between/within {r.mean:.2f} ({r.low:.2f} … {r.high:.2f})"
    )
