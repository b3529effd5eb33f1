"""The picture of a Flow: boxes in the order of the arrows, and what each output trains below."""

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

if TYPE_CHECKING:
    from hfgd.figures.flow import Arrow, Flow

STEP, LANE = 2.35, 1.55  # inches from a box to the next one, to the right and down
WIDE, HIGH = 1.25, 0.62  # of a box
FLOWS, STOPPED = "#2b6a3d", "#c22020"
Place = tuple[float, float]


def picture(flow: "Flow", title: str) -> Figure:
    """Boxes and arrows above; below, part by part, where each output's gradient arrives."""
    places = laid_out(flow)
    right = max(x for x, _ in places.values()) + WIDE
    low = min(y for _, y in places.values()) - HIGH
    rows = 0.26 * (len(flow.trains) + 1) + 0.2
    width, height = max(right + 0.8, 8.0), -low + 1.3 + rows
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((0, rows / height, 1, 1 - rows / height))
    axis.set_xlim(-0.8, width - 0.8)
    axis.set_ylim(low - 0.2, 1.1)
    axis.axis("off")
    axis.text(-0.65, 0.9, title, fontsize=10, weight="bold", va="center")
    for i, (colour, text) in enumerate(((FLOWS, "gradient flows back"), (STOPPED, "stopped"))):
        x = -0.6 + 2.0 * i
        axis.plot([x, x + 0.35], [0.64, 0.64], color=colour, ls="--" if i else "-", lw=1.6)
        axis.text(x + 0.42, 0.64, text, fontsize=8, va="center")
    pairs = sorted(flow.arrows, key=lambda arrow: (arrow.start, arrow.end))
    for (start, end), group in groupby(pairs, key=lambda arrow: (arrow.start, arrow.end)):
        _arrows(axis, list(group), places[start], places[end])
    for name, place in places.items():
        _box(axis, flow, name, place)
    _table(figure.add_axes((0, 0, 1, rows / height)), flow, width)
    return figure


def laid_out(flow: "Flow") -> dict[str, Place]:
    """Where each box's middle is: right of all it gets something from, in their lane if free."""
    depth: dict[str, int] = {}
    lane: dict[str, int] = {}
    before = {name: [a.start for a in flow.arrows if a.end == name] for name in flow.boxes}
    for name in flow.boxes:  # in the order of their calls: what is before is placed
        depth[name] = 1 + max((depth[b] for b in before[name]), default=-1)
    for name in sorted(flow.boxes, key=lambda box: depth[box]):
        parent = max(before[name], key=lambda b: depth[b], default=None)
        taken = {lane[other] for other in lane if depth[other] == depth[name]}
        row = lane[parent] if parent is not None else 0
        while row in taken:
            row += 1
        lane[name] = row
    return {name: (STEP * depth[name], -LANE * lane[name]) for name in flow.boxes}


def _box(axis: Axes, flow: "Flow", name: str, place: Place) -> None:
    x, y = place
    count = flow.boxes[name]
    frozen = name in flow.frozen
    colour = "#dfe9f5" if count else "#f4f4f4"
    axis.add_patch(
        FancyBboxPatch(
            (x - WIDE / 2, y - HIGH / 2), WIDE, HIGH, boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=colour, edgecolor=STOPPED if frozen else "black",
            linestyle="--" if frozen else "-", zorder=3,
        )
    )  # fmt: skip
    lines = [name.removeprefix("→ ").replace(" #2", "\n(second call)")]
    if count:
        lines.append(f"{count:,} weights")
    if frozen:
        lines.append("stopped here")
    axis.text(x, y, "\n".join(lines), ha="center", va="center", fontsize=7, zorder=4)


def _arrows(axis: Axes, arrows: "list[Arrow]", start: Place, end: Place) -> None:
    """All tensors between two boxes, side by side."""
    (x0, y0), (x1, y1) = start, end
    skips = x1 - x0 > 1.5 * STEP
    for i, arrow in enumerate(arrows):
        side = i - (len(arrows) - 1) / 2
        colour = STOPPED if arrow.stopped else FLOWS
        style = "--" if arrow.stopped else "-"
        shift = 0.13 * side
        if y0 == y1:
            a, b = (x0 + WIDE / 2, y0 + shift), (x1 - WIDE / 2, y1 + shift)
            bend = 0.0
            if skips:  # around what stands between
                a, b = (x0 + 0.2, y0 - HIGH / 2), (x1 - 0.2, y1 - HIGH / 2)
                bend = 0.22
        else:
            a, b = (x0 + 0.2 + 0.3 * side, y0 - HIGH / 2), (x1 - WIDE / 2, y1 + shift)
            bend = 0.12
        patch = FancyArrowPatch(
            a, b, arrowstyle="-|>", mutation_scale=10, color=colour, linestyle=style, lw=1.3,
            connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0,
        )  # fmt: skip
        axis.add_patch(patch)
        along = 0.5 + 0.16 * side if y0 != y1 else 0.5
        x, y = _on_curve(a, b, bend, along)
        lift = 0.1 if y0 == y1 else 0
        text = "×".join(map(str, arrow.shape)) + (" ‖" if arrow.stopped else "")
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.9}
        axis.text(
            x, y + lift, text, fontsize=6.5, color=colour, ha="center", va="center",
            bbox=box, zorder=2.5,
        )  # fmt: skip


def _on_curve(a: Place, b: Place, bend: float, t: float) -> Place:
    """A point of matplotlib's arc3: a parabola whose control point stands off the middle."""
    start, end = np.array(a), np.array(b)
    across = end - start
    control = (start + end) / 2 + bend * np.array([across[1], -across[0]])
    x, y = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
    return float(x), float(y)


def _table(axis: Axes, flow: "Flow", width: float) -> None:
    """A line for each output: the parts that its gradient reaches."""
    parts = list(next(iter(flow.trains.values())))
    axis.set_xlim(0, width)
    axis.set_ylim(len(flow.trains) + 0.6, -0.7)
    axis.axis("off")
    axis.text(0.15, 0, "a loss on … trains (asked of autograd)", fontsize=8, va="center")
    left, step = 2.9, min(1.5, (width - 3.2) / len(parts))
    for j, part in enumerate(parts):
        axis.text(left + step * (j + 0.5), 0, part, fontsize=7, ha="center", va="center")
    for i, (output, reached) in enumerate(flow.trains.items(), start=1):
        axis.text(0.15, i, output, fontsize=8, va="center")
        for j, part in enumerate(parts):
            yes = reached[part]
            axis.text(
                left + step * (j + 0.5), i, "yes" if yes else "no", fontsize=8, ha="center",
                va="center", color=FLOWS if yes else STOPPED, weight="bold" if yes else "normal",
            )  # fmt: skip
