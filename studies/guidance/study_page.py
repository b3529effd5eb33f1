"""Tables and pictures of a study of the paper's rows, from its records: what such pages share."""

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hfgd.recipes import ROWS
from records import Run

BASELINE = "table3/none"
ROW_NAMES = {
    BASELINE: "none",
    "table3/guidance": "+ guidance",
    "table3/aa": "+ AA",
    "table3/full": "full",
    "section5.2/no_stop_gradient": "full, no stop-gradients",
    "table9/hfgd_os4": "cae + u_sfpn, full, stride 4",
    "table9/hfgd_os2": "cae + u_sfpn, full, stride 2",
}
NAMES = ROW_NAMES | {
    "section5.1/fcn": "FCN alone",
    "section5.1/aux_fcn_joint": "auxiliary FCN, joint",
    "section5.1/aux_fcn_stopped": "auxiliary FCN, stopped",
}
TABLE3 = tuple(row for row in ROW_NAMES if row.startswith(("table3/", "section5.2/")))
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Summary:
    """The recorded seeds of one row."""

    row: str
    runs: list[Run]

    @property
    def miou(self) -> dict[int, float]:
        return {run.seed: run.miou for run in self.runs}

    @property
    def guide(self) -> list[float]:
        return [run.guide for run in self.runs if run.guide is not None]

    def classes(self, seeds: Iterable[int] = SEEDS, branch: str = "fine") -> dict[str, float]:
        """Mean IoU of each class over these seeds."""
        found = defaultdict(list)
        for run in (run for run in self.runs if run.seed in seeds):
            for name, iou in run.classes[branch].items():
                found[name].append(iou)
        return {name: statistics.fmean(values) for name, values in found.items()}

    def changes(self, base: "Summary") -> dict[str, float]:
        """Differences of each class to another row, over the seeds that both have."""
        seeds = self.miou.keys() & base.miou.keys()
        mine, other = self.classes(seeds), base.classes(seeds)
        return {name: mine[name] - other[name] for name in mine}

    def differences(self, base: "Summary") -> str:
        """Differences in mIoU to another row, over the seeds that both have: mean and spread."""
        mine, other = self.miou, base.miou
        deltas = [mine[seed] - other[seed] for seed in mine if seed in other]
        return spread(deltas, "+") if deltas else ""

    def curve(self) -> tuple[list[int], list[float]]:
        """Mean validation mIoU over the iterations."""
        found = defaultdict(list)
        for run in self.runs:
            for iteration, miou in run.curve.items():
                found[iteration].append(miou)
        return list(found), [statistics.fmean(values) for values in found.values()]


def select(runs: Iterable[Run], **cells: str) -> list[Run]:
    """The runs with these cells, by seed."""
    found = [run for run in runs if all(run[key] == cell for key, cell in cells.items())]
    return sorted(found, key=lambda run: run.seed)


def summaries(runs: Iterable[Run], rows: Iterable[str] = ROW_NAMES) -> list[Summary]:
    """Those of the rows that were run, each at its best rate with the first seed."""
    found = []
    for row in rows:
        if first := select(runs, row=row, seed=str(SEEDS[0])):
            best = max(first, key=lambda run: run.miou)
            found.append(Summary(row, select(runs, row=row, rate=best["rate"])))
    return found


def spread(values: list[float], sign: str = "") -> str:
    """'68.10 ± 0.42' of several values, '68.10' of one."""
    mean = f"{statistics.fmean(values):{sign}.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


def power(number: str) -> str:
    """A rate the short way: '1e-3'."""
    factor, exponent = f"{float(number):e}".split("e")
    return f"{float(factor):g}e{int(exponent)}"


def table(head: Iterable[str], right: str, lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table; ``right``: a letter for each column, r for those that are numbers."""
    marks = ["---:" if letter == "r" else "---" for letter in right]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *lines))


def main_table(rows: list[Summary], paper: bool = True) -> str:
    """Scores, differences to the baseline seed by seed, and the paper's, if they are comparable."""
    lines = []
    for each in rows:
        first = each.row == BASELINE
        gain = ROWS[each.row].paper["ss"] - ROWS[BASELINE].paper["ss"]
        lines.append(
            [
                NAMES[each.row],
                power(each.runs[0]["rate"]),
                str(len(each.runs)),
                spread(list(each.miou.values())),
                " ".join(f"{value:.1f}" for value in each.miou.values()),
                "" if first else each.differences(rows[0]),
                "" if first or not paper else f"{gain:+.2f}",
                spread(each.guide) if each.guide else "",
            ]
        )
    head = "row|rate|seeds|mIoU|every seed|Δ to none, by seed|paper's Δ|guide mIoU"
    return table(head.split("|"), "lrrrlrrr", lines)


def rate_table(runs: list[Run]) -> str:
    """The first seed at every rate, and the mean of all seeds where they were run."""
    rates = sorted({run["rate"] for run in runs}, key=float)
    lines = []
    for row, name in ROW_NAMES.items():
        cells = [name]
        for rate in rates:
            miou = Summary(row, select(runs, row=row, rate=rate)).miou
            mean = f" ({statistics.fmean(miou.values()):.2f})" if len(miou) == len(SEEDS) else ""
            cells.append(f"{miou[SEEDS[0]]:.2f}{mean}" if SEEDS[0] in miou else "–")
        lines.append(cells)
    return table(["row", *map(power, rates)], "l" + "r" * len(rates), lines)


def class_table(rows: list[Summary], guide: Summary | None = None) -> str:
    """The baseline's IoU, and the differences of the others to it; last, what a row's guide reaches."""
    changes = [each.changes(rows[0]) for each in rows[1:]]
    reached = guide.classes(branch="guide") if guide else {}
    lines = [
        [label, f"{value:.1f}", *(f"{change[label]:+.1f}" for change in changes)]
        + ([f"{reached[label]:.1f}"] if guide else [])
        for label, value in rows[0].classes().items()
    ]
    names = [NAMES[each.row] for each in rows] + (["guide"] if guide else [])
    return table(["class", *names], "l" + "r" * len(names), lines)


def guide_class_table(guided: Summary) -> str:
    """What the tokens reach on the coarse feature that trains them, and on the fine one."""
    guide = guided.classes(branch="guide")
    lines = [[name, f"{guide[name]:.1f}", f"{v:.1f}"] for name, v in guided.classes().items()]
    return table(["class", "guide", "fine"], "lrr", lines)


def put(page: Path, tables: Mapping[str, str]) -> str:
    """The page's text with these tables between its ``<!-- table: … -->`` and ``<!-- end -->``; what
    other scripts put there stays."""
    return re.sub(
        r"(<!-- table: ([^>]*) -->\n).*?(<!-- end -->)",
        lambda match: (
            f"{match[1]}{tables[match[2]]}\n{match[3]}" if match[2] in tables else match[0]
        ),
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )


def draw_seeds(found: Mapping[str, list[Summary]], path: Path) -> None:
    """Every seed and the curves; a column for each table, by its title."""
    plt = plots()
    figure, axes = plt.subplots(2, len(found), figsize=(5.2 * len(found), 7.5), squeeze=False)
    for (dots, lines), (title, rows) in zip(axes.T, found.items(), strict=True):
        for place, each in enumerate(rows):
            values = list(each.miou.values())
            dots.plot(values, [place] * len(values), "o", color=_colour(each), alpha=0.7)
            dots.plot([statistics.fmean(values)], [place], "|", color="black", markersize=18)
            lines.plot(*each.curve(), "o-", color=_colour(each), markersize=3)
        dots.set_yticks(range(len(rows)), [ROW_NAMES[each.row] for each in rows])
        dots.invert_yaxis()
        dots.set_title(f"{title}: every seed, mean", fontsize=10)
        dots.set_xlabel("mIoU in percent (the axis does not start at 0)")
        lines.set_xlabel("iteration")
        lines.set_ylabel("validation mIoU, mean over seeds")
        lines.set_title("while training; colours as above", fontsize=10)
        for axis in (dots, lines):
            axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def draw_classes(found: Mapping[str, list[Summary]], path: Path) -> None:
    """The differences of Table 3's rows to the baseline by class; a panel for each table."""
    plt = plots()
    figure, axes = plt.subplots(len(found), 1, figsize=(9, 3.6 * len(found)), squeeze=False)
    for axis, (title, rows) in zip(axes[:, 0], found.items(), strict=True):
        bars = [each for each in rows[1:] if each.row in TABLE3]
        base = rows[0].classes()
        width = 0.8 / max(1, len(bars))
        for number, each in enumerate(bars):
            places = [i + width * (number - (len(bars) - 1) / 2) for i in range(len(base))]
            changes = list(each.changes(rows[0]).values())
            axis.bar(places, changes, width, color=_colour(each), label=ROW_NAMES[each.row])
        axis.set_xticks(range(len(base)), base, rotation=30, ha="right")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_ylabel("IoU against none, points")
        axis.set_title(title, fontsize=10)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3, axis="y")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def plots():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _colour(each: Summary) -> str:
    return f"C{list(ROW_NAMES).index(each.row)}"
