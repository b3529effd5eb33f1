"""The pictures of a run: curves, confusion matrix, per-class bars, panels."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hfgd.data.classes import IGNORE, ClassSet, Rgb
from hfgd.data.dataset import Part, Sample, SegDataset
from hfgd.data.images import Pixels
from hfgd.data.prediction import colourise
from hfgd.evaluation.report import WORST, percent, worst_images
from hfgd.evaluation.scores import Scores
from hfgd.inference.labeller import Labeller

matplotlib.use("Agg")


DPI = 110


@dataclass(frozen=True)
class PanelRow:
    """One image of a panel: image (H, W, 3), truth (H, W), and the label map of each model."""

    name: str
    image: Pixels
    truth: Pixels
    predictions: Mapping[str, Pixels] = field(default_factory=dict)


# names are text: a class called "$x^2$" is no formula
AS_WRITTEN: dict[Any, bool] = {"text.parse_math": False}
RIGHT, WRONG, GAINED, BOTH_WRONG = (245, 245, 245), (214, 26, 26), (30, 140, 60), (150, 150, 150)


@matplotlib.rc_context(AS_WRITTEN)
def panels(
    rows: Sequence[PanelRow], classes: ClassSet, path: Path, differences: bool = False
) -> None:
    """Image | truth | each model | each model's errors, with the accuracy of each picture.

    ``differences``: instead of errors, where the other models differ from the first.
    """
    models = list(rows[0].predictions)
    last = models[1:] if differences else models
    kind = f"against {models[0]}: " if differences else "errors of "
    titles = ["image", "truth", *models]
    titles += [f"{kind}{model}" for model in last] if len(models) > 1 else ["errors"]
    legend = _legend(rows, classes, differences)
    height, width = rows[0].truth.shape
    cell = 3.1 if len(titles) <= 4 else 2.6
    legend_columns = max(3, round(cell * len(titles) / 1.6))
    margin = 0.1 + 0.22 * -(-len(legend) // legend_columns)
    size = (cell * len(titles), (cell * height / width + 0.3) * len(rows) + 0.3 + margin)
    figure, axes = plt.subplots(len(rows), len(titles), figsize=size, squeeze=False)
    for axis_row, row in zip(axes, rows, strict=True):
        pictures = [row.image, colourise(row.truth, classes)]
        pictures += [colourise(labels, classes) for labels in row.predictions.values()]
        first = row.predictions[models[0]] if differences else None
        pictures += [_marks(row.predictions[model], row.truth, first) for model in last]
        shares = [_share_right(labels, row.truth) for labels in row.predictions.values()]
        notes = [row.name, "", *(f"{100 * share:.1f} % of pixels right" for share in shares)]
        for axis, picture, note in zip(axis_row, pictures, notes + [""] * len(last), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_xlabel(note, fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, title in zip(axes[0], titles, strict=True):
        lines = fill(title, 26, break_long_words=False)  # a long title would run into the next one
        axis.set_title(lines, fontsize=10 if len(title) < 24 else 8)
    figure.tight_layout(rect=(0, margin / size[1], 1, 1), h_pad=0.4, w_pad=0.4)
    figure.legend(
        handles=legend, loc="lower center", ncols=legend_columns, fontsize=8, frameon=False
    )
    _save(figure, path)


def _legend(rows: Sequence[PanelRow], classes: ClassSet, differences: bool) -> list[Patch]:
    """The classes that occur in the pictures, and what the marks mean."""
    maps = [labels for row in rows for labels in (row.truth, *row.predictions.values())]
    shown = sorted({int(i) for labels in maps for i in np.unique(labels)} - {IGNORE})
    entries = [(classes.names[i], classes.palette[i]) for i in shown]
    entries.append(("void (not scored)", (0, 0, 0)))
    if differences:
        entries += [("only the first is right", WRONG), ("only the other is right", GAINED)]
        entries.append(("both are wrong", BOTH_WRONG))
    else:
        entries.append(("error", WRONG))
    return [
        Patch(facecolor=_unit(colour), edgecolor="black", linewidth=0.5, label=name)
        for name, colour in entries
    ]


def _marks(labels: Pixels, truth: Pixels, first: Pixels | None) -> Pixels:
    """Where a model is wrong, or where it differs from the first; black where nothing is scored."""
    picture = np.full((*truth.shape, 3), RIGHT, dtype=np.uint8)
    wrong = labels != truth
    if first is None:
        picture[wrong] = WRONG
    else:
        picture[wrong & (first != truth)] = BOTH_WRONG
        picture[wrong & (first == truth)] = WRONG
        picture[~wrong & (first != truth)] = GAINED
    picture[truth == IGNORE] = 0
    return picture


def _unit(colour: Rgb) -> tuple[float, float, float]:
    """Matplotlib's colours are of [0, 1]."""
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _share_right(labels: Pixels, truth: Pixels) -> float:
    valid = truth != IGNORE
    return float((labels == truth)[valid].mean()) if valid.any() else float("nan")


@matplotlib.rc_context(AS_WRITTEN)
def confusion(scores: Scores, path: Path) -> None:
    """Rows: the label's class; columns: what it was taken for, in percent of the row."""
    count = len(scores.classes)
    with np.errstate(invalid="ignore"):
        share = 100 * scores.matrix / scores.matrix.sum(1, keepdims=True)
    side = max(5.0, 0.5 * count + 2.5) if count <= 40 else 0.18 * count + 4
    figure, axis = plt.subplots(figsize=(side + 1, side))
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    font = 9 if count <= 40 else 5
    axis.set_xticks(range(count), scores.classes.names, rotation=90, fontsize=font)
    axis.set_yticks(range(count), scores.classes.names, fontsize=font)
    axis.set_xlabel("predicted")
    axis.set_ylabel("label")
    if count <= 25:
        for (i, j), value in np.ndenumerate(share):
            if np.isfinite(value) and value >= 0.5:
                colour = "white" if value > 55 else "black"
                axis.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axis, label="% of the label's pixels", fraction=0.046, pad=0.03)
    axis.set_title(f"confusion, mIoU {100 * scores.miou:.2f} %")
    figure.tight_layout()
    _save(figure, path)


@matplotlib.rc_context(AS_WRITTEN)
def class_bars(scores: Scores, path: Path) -> None:
    """IoU of each class, best first; absent classes last and said so."""
    iou = scores.iou
    order = np.argsort(-np.nan_to_num(iou, nan=-1), kind="stable")
    figure, axis = plt.subplots(figsize=(7.5, max(2.5, 0.27 * len(iou) + 1)))
    colours = [_unit(scores.classes.palette[i]) for i in order]
    values = 100 * np.nan_to_num(iou[order])
    axis.barh(range(len(iou)), values, color=colours, edgecolor="black", linewidth=0.5)
    for place, index in enumerate(order):
        text = "absent" if np.isnan(iou[index]) else f"{100 * iou[index]:.1f}"
        axis.text(values[place] + 1, place, text, va="center", fontsize=8)
    axis.set_yticks(range(len(iou)), [scores.classes.names[i] for i in order], fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, 108)
    axis.axvline(100 * scores.miou, color="grey", linestyle="--", linewidth=1)
    axis.set_xlabel("IoU in percent")
    axis.set_title(f"IoU of each class (dashed: mIoU {100 * scores.miou:.2f} %)", fontsize=10)
    figure.tight_layout()
    _save(figure, path)


@matplotlib.rc_context(AS_WRITTEN)
def curves(train_csv: Path, val_csv: Path, path: Path) -> None:
    """Losses by name (log scale) above, validation scores below, over the iterations."""
    train, val = csv_columns(train_csv), csv_columns(val_csv)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6.5), sharex=True)
    for name in (n for n in train if n not in ("iteration", "lr")):
        style: dict[str, Any] = {"color": "black", "linewidth": 1.6} if name == "loss" else {}
        top.plot(train["iteration"], train[name], label=name, **style)
    top.set_yscale("log")
    top.set_ylabel("loss")
    top.legend(fontsize=8, ncols=2)
    for name in (n for n in val if n != "iteration"):
        scores = [100 * value for value in val[name]]
        bottom.plot(val["iteration"], scores, marker="o", markersize=3, label=name)
    bottom.set_ylabel("validation, percent")
    bottom.set_xlabel("iteration")
    bottom.set_ylim(0, 100)
    if len(val) > 1:
        bottom.legend(fontsize=8)
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    _save(figure, path)


def csv_columns(path: Path) -> dict[str, list[float]]:
    """A CSV file of numbers by column; an "iteration" without rows where there is no file."""
    if not path.is_file():
        return {"iteration": []}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else ["iteration"])}


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


@matplotlib.rc_context(AS_WRITTEN)
def ablation_bars(rows: Sequence[tuple[str, float, float | None]], title: str, path: Path) -> None:
    """Mean mIoU of each row (name, mean, spread) in percent, on an axis that shows differences."""
    names, means, spreads = zip(*rows, strict=True)
    errors = [spread or 0 for spread in spreads]
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(rows) + 1.4))
    axis.barh(range(len(rows)), means, xerr=errors, color="#7aa6d0", edgecolor="black", capsize=3)
    low, high = min(means) - max(errors), max(means) + max(errors)
    margin = max(0.5, 0.35 * (high - low))
    left = max(0.0, low - margin)
    axis.set_xlim(left, high + margin)
    for place, (mean, error) in enumerate(zip(means, errors, strict=True)):
        axis.text(mean + error + 0.04 * margin, place, f" {mean:.2f}", va="center", fontsize=9)
    axis.set_yticks(range(len(rows)), names)
    axis.invert_yaxis()
    axis.set_xlabel(f"mIoU in percent{'' if left == 0 else ' (the axis does not start at 0)'}")
    axis.set_title(title, fontsize=10)
    figure.tight_layout()
    _save(figure, path)


# ---- panels of predictions -----------------------------------------------------------------------


def draw_scores(scores: Scores, folder: Path) -> None:
    """confusion.png and iou_per_class.png."""
    confusion(scores, folder / "confusion.png")
    class_bars(scores, folder / "iou_per_class.png")


def label_panels(
    labellers: Mapping[str, Labeller], dataset: SegDataset, count: int, path: Path
) -> None:
    """A picture of what the labellers say of ``count`` images, beside the truth and their errors."""
    whole = Part(dataset, min(count, len(dataset)))
    rows = [panel_row(labellers, whole[i]) for i in range(len(whole))]
    panels(rows, dataset.classes, path)


def worst_panels(labeller: Labeller, dataset: SegDataset, scores: Scores, path: Path) -> None:
    """The images that came out worst, each with its score."""
    assert scores.images is not None
    place = {name: i for i, name in enumerate(scores.images.names)}
    rows = []
    for name, miou in worst_images(scores, WORST):
        row = panel_row({"prediction": labeller}, dataset[place[name]])
        rows.append(replace(row, name=f"{name}  mIoU {percent(miou)}"))
    if rows:
        panels(rows, dataset.classes, path)


def panel_row(labellers: Mapping[str, Labeller], sample: Sample) -> PanelRow:
    """One image with the label map of each labeller."""
    pixels = sample.image.permute(1, 2, 0).numpy()
    maps = {
        title: labeller.labels(sample.image).cpu().numpy() for title, labeller in labellers.items()
    }
    return PanelRow(sample.name, pixels, sample.label.numpy(), maps)
