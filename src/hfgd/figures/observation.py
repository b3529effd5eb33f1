"""Figure 1: the observation behind the paper, as numbers: what an upsampler does to the backbone.

Its runs are FCN alone, and SemanticFPN with an auxiliary FCN that is trained jointly or stopped before
the backbone (§5.1); others may stand beside them. Each is scored by the branch that its recipe
scores; a run with an auxiliary FCN also by its fine branch.
"""

from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from hfgd.errors import HfgdError
from hfgd.evaluation.compare import Difference, differences
from hfgd.evaluation.evaluate_model import scored
from hfgd.evaluation.scores import Scores
from hfgd.figures.common import FigureRequest, check_same_classes
from hfgd.inference.labeller import Labeller, open_labeller, origin
from hfgd.recipes import ROWS
from hfgd.types import Branch

EXPECTED = ("section5.1/fcn", "section5.1/aux_fcn_joint", "section5.1/aux_fcn_stopped")


@dataclass(frozen=True)
class Bar:
    """A branch of a run: its mIoU, its difference to the first bar, and the paper's mIoU (percent)."""

    run: str
    recipe: str
    branch: Branch
    miou: float
    change: Difference
    paper: float | None


def draw(wanted: FigureRequest) -> str:
    """figure1.png, figure1.svg, figure1.csv: a branch of a run a line."""
    labellers, recipes = _opened(wanted)
    what = wanted.what()
    dataset = what.dataset()
    scores = {
        title: scored(labeller, dataset, what, f"scoring {title}")
        for title, labeller in labellers.items()
    }
    bars = bars_of(scores, labellers, recipes)
    first = bars[0]
    wanted.table(
        {
            "run": bar.run,
            "recipe": bar.recipe,
            "branch": bar.branch,
            "mIoU": 100 * bar.miou,
            "against the first": bar.change.points,
            "low": bar.change.low,
            "high": bar.change.high,
            "paper mIoU": bar.paper,
            "paper against the first": _paper_change(bar, first),
        }
        for bar in bars
    )
    wanted.save(_picture(bars, dataset.title, len(dataset)))
    lines = [_sentence(bar, first) for bar in bars]
    missing = [name for name in EXPECTED if name not in recipes.values()]
    if missing:
        lines.append(f"the paper's figure also has {', '.join(missing)}: not among the runs given")
    return "\n".join(lines)


def _opened(wanted: FigureRequest) -> tuple[dict[str, Labeller], dict[str, str]]:
    """A labeller for every branch that is scored, and the recipe's name of each."""
    labellers: dict[str, Labeller] = {}
    recipes: dict[str, str] = {}
    for title, path in wanted.named_runs().items():
        labeller = open_labeller(path, wanted.how)
        labellers[title], recipes[title] = labeller, origin(path).name
        if labeller.branch == "aux":  # what the upsampler beside it answers
            fine = replace(wanted.how, branch="fine")
            labellers[f"{title}: upsampler"] = open_labeller(path, fine)
            recipes[f"{title}: upsampler"] = ""
    check_same_classes(labellers)
    return labellers, recipes


def bars_of(
    scores: dict[str, Scores], labellers: dict[str, Labeller], recipes: dict[str, str]
) -> list[Bar]:
    """A Bar for each of the scores, with its paired difference to the first."""
    first = next(iter(scores.values()))
    bars = []
    for title, each in scores.items():
        row = ROWS.get(recipes[title])
        paper = row.paper.get("ss") if row is not None else None
        change = differences(first, each)[-1]
        branch = labellers[title].branch
        bars.append(Bar(title, recipes[title], branch, each.miou, change, paper))
    if np.isnan(bars[0].miou):
        raise HfgdError("figure 1: no image has a labelled pixel; give data with labels.")
    return bars


def _paper_change(bar: Bar, first: Bar) -> float | None:
    known = bar.paper is not None and first.paper is not None
    return bar.paper - first.paper if known else None  # type: ignore[operator]


def _sentence(bar: Bar, first: Bar) -> str:
    text = f"{bar.run} ({bar.branch} branch): mIoU {100 * bar.miou:.2f}"
    if bar is not first:
        text += f", {bar.change.points:+.2f} ({bar.change.low:+.2f} … {bar.change.high:+.2f})"
    if bar.paper is not None:
        text += f"; paper {bar.paper:.2f}"
        change = _paper_change(bar, first)
        text += f", {change:+.2f}" if bar is not first and change is not None else ""
    return text


def _picture(bars: list[Bar], data: str, images: int) -> Figure:
    """mIoU of every bar on the left, differences to the first on the right; diamonds: the paper's."""
    figure = Figure(figsize=(11, 0.5 * len(bars) + 1.5))
    left, right = figure.subplots(1, 2, sharey=True)
    places = list(range(len(bars)))
    colours = ["#7aa6d0" if bar.branch != "fine" or bar.recipe else "#d8d8d8" for bar in bars]
    left.barh(places, [100 * bar.miou for bar in bars], color=colours, edgecolor="black", lw=0.6)
    for place, bar in enumerate(bars):
        end = max(100 * bar.miou, bar.paper or 0)
        left.text(end + 1.5, place, f"{100 * bar.miou:.2f}", va="center", fontsize=8)
        paper = _paper_change(bar, bars[0])
        if bar.paper is not None:
            left.plot(bar.paper, place, "D", color="#c2571a", markersize=5)
        if place:
            change = bar.change
            right.plot([change.low, change.high], [place, place], "|-", color="black")
            right.plot(change.points, place, "o", color="black")
        if place and paper is not None:
            right.plot(paper, place, "D", color="#c2571a", markersize=5)
    left.set_yticks(places, [f"{bar.run}\n({bar.branch} branch)" for bar in bars], fontsize=8)
    left.invert_yaxis()
    left.set_xlim(0, 100)
    left.set_xlabel(f"mIoU in percent on {data}, {images} images", fontsize=9)
    right.axvline(0, color="grey", lw=1)
    right.set_xlabel(f"points against {bars[0].run}, 95 % interval over the images", fontsize=9)
    right.plot([], [], "D", color="#c2571a", label="the paper's (ResNet-50, Pascal Context)")
    right.legend(fontsize=8, loc="best")
    for axis in (left, right):
        axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    return figure
