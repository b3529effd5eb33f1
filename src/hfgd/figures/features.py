"""What the eye cannot judge of features: silhouette, and distances between and within classes.

Both are taken in the features' own space, not on the map that UMAP makes of them, and neither changes
when all features are scaled.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from hfgd.data.dataset import SegDataset
from hfgd.errors import HfgdError, unknown
from hfgd.evaluation.evaluate_model import EvalConfig, scored
from hfgd.evaluation.scores import Floats, Ints
from hfgd.evaluation.scoring import check_classes
from hfgd.figures.common import FigureRequest, PixelSample, TrainedRun, open_runs, sampled
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.model.network import evaluating, place_of
from hfgd.progress import Progress
from hfgd.resample import image_axis

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Interval:
    """A mean over samples, and the middle 95 % of them."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Of one value for each sample."""
        low, high = np.percentile(values, [2.5, 97.5])
        return cls(float(np.mean(values)), float(low), float(high))


def silhouette(features: Features, labels: Ints) -> float:
    """The mean silhouette of features (N, D) with classes (N,), of [-1, 1].

    A pixel's is (b − a) / max(a, b): a its mean distance to its own class, b to the nearest other.
    """
    from sklearn.metrics import silhouette_score  # comes with umap-learn

    return float(silhouette_score(features, labels))


def distance_ratio(features: Features, labels: Ints) -> float:
    """Mean distance between the classes' means, over the mean distance of pixels to their mean.

    features (N, D), labels (N,); every class counts the same. NaN where nothing is apart.
    """
    features = features.astype(np.float64)
    classes = np.unique(labels)
    means: Floats = np.stack([features[labels == k].mean(0) for k in classes])
    within = np.mean(
        [
            np.linalg.norm(features[labels == k] - mean, axis=1).mean()
            for k, mean in zip(classes, means, strict=True)
        ]
    )
    apart = np.linalg.norm(means[:, None] - means[None], axis=2)
    between = apart[np.triu_indices(len(classes), 1)].mean()
    return float(between / within) if within else float("nan")


def most_confused(matrix: Ints, count: int) -> list[int]:
    """The ``count`` classes of the pairs that are confused most, worst pair first.

    ``matrix[label, prediction]`` counts pixels (K, K). A pair's confusion is the share of either
    class's pixels that is taken for the other, both added; classes without pixels are left out.
    """
    total = matrix.sum(1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    known = np.flatnonzero(total[:, 0])
    pairs = [(i, j) for i in known for j in known if i < j]
    pairs.sort(key=lambda pair: -(share[pair] + share[pair[::-1]]))
    chosen: list[int] = []
    for i, j in pairs:
        # of a pair the class that is taken for the other more often comes first
        for k in (i, j) if share[i, j] >= share[j, i] else (j, i):
            if k not in chosen and len(chosen) < count:
                chosen.append(int(k))
    return chosen


# ---- the picture ---------------------------------------------------------------------------------


def picture(
    found: "Sequence[Separation]", labels: np.ndarray, names: Sequence[str], samples: int
) -> Figure:
    """``labels`` (N,): the class name of each point, the same in all runs; ``names``: in order.

    Colours are chosen to be told apart: a data set's own may be nearly the same for two classes.
    """
    colours = matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20"]
    columns = min(2, len(found)) if len(found) <= 4 else 3
    lines = -(-len(found) // columns)
    titles = [each.title for each in found]
    names_wide = 0.3 + 0.065 * max(map(len, titles))  # inches: the runs' names beside the numbers
    figure = Figure(figsize=(3.3 * columns + names_wide + 2.6, max(3.6, 3.1 * lines + 0.6)))
    grid = figure.add_gridspec(
        lines,
        columns + 2,
        width_ratios=[*[3.3] * columns, names_wide, 2.4],
        wspace=0.04,
        hspace=0.14,
    )
    for i, each in enumerate(found):
        axis = figure.add_subplot(grid[i // columns, i % columns])
        for k, name in enumerate(names):
            of_class = each.points[labels == name]
            axis.scatter(of_class[:, 0], of_class[:, 1], s=3, color=colours(k % 20), linewidths=0)
        axis.set_title(f"{each.title} ({each.kind})", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    beside = grid[:, -1].subgridspec(2, 1, hspace=0.45)
    silhouettes, ratios = [each.silhouette for each in found], [each.ratio for each in found]
    _numbers(figure.add_subplot(beside[0]), silhouettes, titles, "silhouette")
    _numbers(figure.add_subplot(beside[1]), ratios, titles, "distance between / within classes")
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colours(k % 20), label=name)
        for k, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="lower center", ncols=8, fontsize=8, frameon=False)
    figure.text(
        0.99, 0.985, f"bars: 95 % of {samples} samples of pixels", ha="right", va="top", fontsize=7
    )
    high = figure.get_figheight()
    figure.subplots_adjust(left=0.015, right=0.985, top=1 - 0.45 / high, bottom=0.55 / high)
    return figure


def _numbers(axis: Axes, values: "Sequence[Interval]", titles: Sequence[str], what: str) -> None:
    places = list(range(len(values)))
    for place, value in zip(places, values, strict=True):
        axis.plot([value.low, value.high], [place, place], "|-", color="black", lw=1.2)
        axis.plot(value.mean, place, "o", color="#c2571a", markersize=5)
        axis.annotate(
            f"{value.mean:.3g}", (value.mean, place), (0, 5), textcoords="offset points",
            ha="center", fontsize=7,
        )  # fmt: skip
    axis.set_yticks(places, titles, fontsize=7)
    axis.set_ylim(len(values) - 0.5, -0.7)
    axis.tick_params(axis="x", labelsize=7)
    axis.locator_params(axis="x", nbins=5)
    axis.set_title(what, fontsize=8)
    axis.margins(x=0.15)
    axis.grid(axis="x", alpha=0.3)


# ---- features of runs ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Separation:
    """A run: its points on the map (N, 2), and its two numbers over the samples."""

    title: str
    kind: str
    points: Floats
    silhouette: Interval
    ratio: Interval


def draw(wanted: FigureRequest) -> str:
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
    wanted: FigureRequest, runs: Sequence[TrainedRun], what: EvalConfig, dataset: SegDataset
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


def _check_sample(places: PixelSample, chosen: list[int], names: list[str], title: str) -> None:
    for k, name in zip(chosen, names, strict=True):
        if (places.label == k).sum() < 2:
            raise HfgdError(
                f"class '{name}' has fewer than two labelled pixels in '{title}'; "
                "choose other --classes."
            )


def features_at(
    runs: Sequence[TrainedRun], dataset: SegDataset, samples: Sequence[PixelSample]
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


def features_of(run: TrainedRun, image: Tensor, rows: Ints, columns: Ints) -> Features:
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
    wanted: FigureRequest,
    found: Sequence[Separation],
    places: PixelSample,
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
