"""Figure 4's picture: a map for each run, and both numbers of all runs beside them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

if TYPE_CHECKING:
    from hfgd.figures.features import Separation
    from hfgd.figures.separation import Interval


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
