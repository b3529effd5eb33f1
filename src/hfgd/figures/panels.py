"""Figures 3, 7, 8 and 9: the same images through several models, enlarged where these differ most.

Images are those that are named, or those on which the models differ on most of the labelled pixels.
Under each stands the window, a third as high and as wide, in which they differ most.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from hfgd.data.classes import IGNORE, ClassSet
from hfgd.data.dataset import SegDataset
from hfgd.data.images import Pixels
from hfgd.data.prediction import colourise
from hfgd.errors import HfgdError, unknown
from hfgd.evaluation.plots import PanelRow, panel_row
from hfgd.evaluation.scoring import check_classes
from hfgd.figures.common import FigureRequest, check_same_classes
from hfgd.inference.labeller import Labeller, open_labeller
from hfgd.progress import Progress

# what the paper shows in each: its data set and the rows of its tables
PAPER = {
    "3": ("Pascal Context, COCOStuff164k, Cityscapes", "SemanticFPN, HFGD, HFGD at stride 2"),
    "7": ("Pascal Context", "table9/sfpn, table9/sa_car_d8, table9/hfgd_os4"),
    "8": ("COCOStuff164k", "SemanticFPN, table11/hfgd"),
    "9": ("Cityscapes", "table12/sfpn, table12/hfgd_os4, table12/hfgd_os2"),
}
PART = 3  # the enlarged window's share of height and width, as a divisor
Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class PanelImage:
    """What is kept of every image: shares of its labelled pixels."""

    name: str
    differ: float
    right: dict[str, float]


def draw(wanted: FigureRequest) -> str:
    """figureN.png, figureN.svg, and figureN.csv: every image that was looked at a line."""
    runs = wanted.named_runs(least=1 if wanted.images else 2)
    labellers = {title: open_labeller(path, wanted.how) for title, path in runs.items()}
    check_same_classes(labellers)
    dataset = wanted.what().dataset()
    check_classes(next(iter(labellers.values())).classes, dataset)
    rows, seen = _looked_at(labellers, dataset, wanted)
    shown = {row.name for row in rows}
    wanted.table(
        {
            "image": each.name,
            "shown": int(each.name in shown),
            "pixels that differ": each.differ,
            **{f"right: {title}": share for title, share in each.right.items()},
        }
        for each in seen
    )
    wanted.save(picture(rows, dataset.classes))
    where, what = PAPER[wanted.name]
    images = ", ".join(f"{s.name} ({100 * s.differ:.1f} %)" for s in seen if s.name in shown)
    return (
        f"images and the share of pixels on which the models differ: {images}\n"
        f"the paper shows {what} on {where}"
    )


def _looked_at(
    labellers: Mapping[str, Labeller], dataset: SegDataset, wanted: FigureRequest
) -> tuple[list[PanelRow], list[PanelImage]]:
    """The rows to show, the most telling first or as named, and all images that were labelled.

    Of an image that does not stay among the ``count`` best only its numbers are kept.
    """
    seen: list[PanelImage] = []
    best: list[tuple[float, int, PanelRow]] = []  # a heap: the least telling one on top
    with Progress("looking", len(dataset)) as progress:
        for i in range(len(dataset)):
            progress.update(i + 1)
            sample = dataset[i]
            if wanted.images and sample.name not in wanted.images:
                continue
            row = panel_row(labellers, sample)
            seen.append(_numbers(row))
            entry = (seen[-1].differ, -i, row)
            if wanted.images or len(best) < wanted.count:
                heapq.heappush(best, entry)
            elif entry[:2] > best[0][:2]:
                heapq.heapreplace(best, entry)
    rows = [row for *_, row in sorted(best, key=lambda entry: entry[:2], reverse=True)]
    for name in wanted.images:
        if name not in {row.name for row in rows}:
            known = [dataset[i].name for i in range(len(dataset))]
            raise unknown(f"image in '{dataset.title}'", name, known)
    if wanted.images:
        rows.sort(key=lambda row: list(wanted.images).index(row.name))
    return rows, seen


def _numbers(row: PanelRow) -> PanelImage:
    valid = row.truth != IGNORE
    count = max(1, int(valid.sum()))
    right = {t: int((m == row.truth)[valid].sum()) / count for t, m in row.predictions.items()}
    return PanelImage(row.name, int(differing(row).sum()) / count, right)


def differing(row: PanelRow) -> npt.NDArray[np.bool_]:
    """Where the models do not all say the same of a labelled pixel (H, W) bool.

    With a single model: where it is wrong.
    """
    first, *others = row.predictions.values()
    apart = np.zeros(row.truth.shape, dtype=bool)
    for labels in others or [row.truth]:
        apart |= labels != first
    found: npt.NDArray[np.bool_] = apart & (row.truth != IGNORE)
    return found


def busiest_window(marks: npt.NDArray[np.bool_], part: int = PART) -> Box:
    """The window of 1/``part`` of height and width with the most marks (H, W); the first of equals."""
    height, width = (max(1, side // part) for side in marks.shape)
    sums = np.zeros((marks.shape[0] + 1, marks.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = marks.astype(np.int64).cumsum(0).cumsum(1)
    inside = (
        sums[height:, width:]
        - sums[:-height, width:]
        - sums[height:, :-width]
        + sums[:-height, :-width]
    )
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(top), int(left), height, width


def picture(rows: list[PanelRow], classes: ClassSet) -> Figure:
    """Image | truth | each model; under each the enlarged window, framed above."""
    if not rows:
        raise HfgdError("there is no image to show; give data with images in this split.")
    models = list(rows[0].predictions)
    titles = ["image", "truth", *models]
    cell = 3.0 if len(titles) <= 4 else 2.4
    legend = _legend(rows, classes)
    columns = max(3, round(cell * len(titles) / 1.3))
    margin = 0.2 + 0.2 * -(-len(legend) // columns)
    ratios = [row.truth.shape[0] / row.truth.shape[1] for row in rows]
    heights = [cell * ratio for ratio in ratios for _ in (0, 1)]
    size = (cell * len(titles), sum(heights) + 0.25 * len(rows) + 0.3 + margin)
    figure = Figure(figsize=size)
    axes = figure.subplots(
        len(heights), len(titles), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for i, row in enumerate(rows):
        box = busiest_window(differing(row))
        pictures = [row.image, colourise(row.truth, classes)]
        pictures += [colourise(labels, classes) for labels in row.predictions.values()]
        shares = _numbers(row).right.values()
        notes = [row.name, "", *(f"{100 * share:.1f} % right" for share in shares)]
        for j, (pixels, note) in enumerate(zip(pictures, notes, strict=True)):
            _whole(axes[2 * i, j], pixels, box)
            _enlarged(axes[2 * i + 1, j], pixels, box, note)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    figure.tight_layout(rect=(0, margin / size[1], 1, 1), h_pad=0.7, w_pad=0.3)
    figure.legend(handles=legend, loc="lower center", ncols=columns, fontsize=8, frameon=False)
    return figure


def _whole(axis: Axes, pixels: Pixels, box: Box) -> None:
    axis.imshow(pixels, interpolation="nearest")
    top, left, height, width = box
    frame = Rectangle((left, top), width, height, fill=False, edgecolor="white", linewidth=1.6)
    axis.add_patch(frame)
    inner = Rectangle((left, top), width, height, fill=False, edgecolor="red", linewidth=0.8)
    axis.add_patch(inner)
    axis.set_xticks([])
    axis.set_yticks([])


def _enlarged(axis: Axes, pixels: Pixels, box: Box, note: str) -> None:
    top, left, height, width = box
    axis.imshow(pixels[top : top + height, left : left + width], interpolation="nearest")
    axis.set_xlabel(note, fontsize=8)
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_edgecolor("red")


def _colour(classes: ClassSet, index: int) -> tuple[float, float, float]:
    red, green, blue = (value / 255 for value in classes.palette[index])
    return red, green, blue


def _legend(rows: list[PanelRow], classes: ClassSet) -> list[Patch]:
    """The classes that occur, and the frame."""
    maps = [labels for row in rows for labels in (row.truth, *row.predictions.values())]
    shown = sorted({int(i) for labels in maps for i in np.unique(labels)} - {IGNORE})
    patches = [
        Patch(facecolor=_colour(classes, i), edgecolor="black", lw=0.5, label=name)
        for i, name in ((i, classes.names[i]) for i in shown)
    ]
    patches.append(Patch(facecolor="black", label="void"))
    patches.append(Patch(facecolor="none", edgecolor="red", label="where they differ most"))
    return patches
