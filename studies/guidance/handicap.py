"""When does guidance pay? The guide's handicap against what guidance gives, over all records.

    python studies/guidance/handicap.py [STUDY ...]

A pair is two runs that differ in guidance alone (``table3/none`` and ``guidance``, ``aa`` and
``full``), with everything else, seed included, the same. Handicap: the guide's mIoU less the unguided
answer's. Gain: the guided answer's less the unguided answer's. Both have the unguided answer in them,
so its own luck moves them together; therefore each fit is made again with the handicap against the
unguided answers of the other seeds. Writes the two tables (what each handicap went with, and the
fits) between their marks of studies/guidance/README.md, and a picture; of some studies alone it prints
the fits.
"""

import argparse
import statistics
from dataclasses import dataclass, replace

import numpy as np

from camvid_guidance import PAGE, PICTURES
from records import Run, read
from study_page import plots, put, table

PAIRS = {"table3/guidance": "table3/none", "table3/full": "table3/aa"}
# keys that do nothing to an unguided run; when a run is validated does nothing to any
IGNORED = ("model.guidance", "loss.guide", "train.validate_every")
SAME = "study data backbone backbone_lr start rate iterations batch crop width".split()
STARTS = {"ImageNet weights": lambda run: run["start"] != "false"}
STARTS |= {"random weights": lambda run: run["start"] == "false"}
PARTS = {"all": lambda run: True, **STARTS}
OPENED = ("stop_features", "stop_tokens")
MARKERS = {"camvid-guidance": "o", "nyuv2-guidance": "^"}
RESAMPLES = 1000  # of the bootstrap
BANDS = {"ahead": (0, np.inf), "up to 5 points behind": (-5, 0), "farther behind": (-np.inf, -5)}


@dataclass(frozen=True)
class Pair:
    """Points of mIoU, and of each class's IoU."""

    guided: Run
    setting: tuple[str, ...]
    run: tuple[float, float]  # handicap and gain
    classes: list[tuple[float, float]]  # the same of each class
    apart: "Pair | None" = None  # the handicap against the other seeds, where there are some


def others(run: Run) -> str:
    """What is changed beside guidance itself."""
    return " ".join(c for c in run["changes"].split() if not c.startswith(IGNORED))


def pairs(runs: list[Run]) -> list[Pair]:
    """Stopped runs only: where a gradient passes the stops the guide is another network's."""
    base: dict[tuple[str, ...], dict[int, Run]] = {}
    for run in runs:
        setting = (*(run[key] for key in SAME), others(run))
        base.setdefault((run["row"], *setting), {})[run.seed] = run
    found = []
    for run in runs:
        setting = (PAIRS.get(run["row"], ""), *(run[key] for key in SAME), others(run))
        unguided = base.get(setting, {})
        opened = any(key in run["changes"] for key in OPENED)
        if run.seed not in unguided or run.guide is None or opened:
            continue
        own = unguided[run.seed]
        rest = [other for seed, other in unguided.items() if seed != run.seed]
        apart = pair(run, setting, own, rest) if rest else None
        found.append(replace(pair(run, setting, own, [own]), apart=apart))
    return found


def pair(run: Run, setting: tuple[str, ...], own: Run, against: list[Run]) -> Pair:
    """Gains against ``own``, handicaps against the mean of others."""
    fine, guide = run.classes["fine"], run.classes["guide"]
    level = statistics.fmean(other.miou for other in against)
    classes = [
        (
            guide[name] - statistics.fmean(other.classes["fine"][name] for other in against),
            fine[name] - own.classes["fine"][name],
        )
        for name in fine
    ]
    return Pair(run, (run["row"], *setting), (run.guide - level, run.miou - own.miou), classes)


def fitted(points: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Slope, intercept and the share of the gain's variance that the line explains."""
    x, y = np.array(points).T
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept), float(np.corrcoef(x, y)[0, 1] ** 2)


def interval(chosen: list[Pair], points) -> tuple[float, float]:
    """95 % of the slope; whole settings are drawn, since seeds of one are not independent of it."""
    groups: dict[tuple[str, ...], list[Pair]] = {}
    for pair in chosen:
        groups.setdefault(pair.setting, []).append(pair)
    rng, keys, slopes = np.random.default_rng(0), list(groups), []
    while len(slopes) < RESAMPLES:
        drawn = [groups[keys[i]] for i in rng.integers(0, len(keys), len(keys))]
        sample = [point for group in drawn for pair in group for point in points(pair)]
        if len({x for x, _ in sample}) > 2:
            slopes.append(fitted(sample)[0])
    low, high = np.percentile(slopes, [2.5, 97.5])
    return float(low), float(high)


def of_run(pair: Pair) -> list[tuple[float, float]]:
    return [pair.run]


def of_classes(pair: Pair) -> list[tuple[float, float]]:
    return pair.classes


def fits(found: list[Pair]) -> str:
    lines = []
    for name, chosen in PARTS.items():
        part = [pair for pair in found if chosen(pair.guided)]
        for unit, points in (("runs", of_run), ("classes", of_classes)):
            for how in ("its own", "of other seeds"):
                used = part if how == "its own" else [p.apart for p in part if p.apart]
                everything = [point for pair in used for point in points(pair)]
                if len(everything) < 3:  # a line through two points explains nothing
                    continue
                slope, intercept, explained = fitted(everything)
                low, high = interval(used, points)
                zero = f"{-intercept / slope:+.1f}" if low > 0 else "–"
                cells = [name, unit, how, str(len(everything))]
                cells += [f"{slope:+.2f} ({low:+.2f} … {high:+.2f})"]
                lines.append([*cells, f"{100 * explained:.0f} %", zero])
    head = "start|points|unguided answer in the handicap|number|slope, 95 %|explained|gain is 0 at"
    return table(head.split("|"), "lllrrrr", lines)


def rule(found: list[Pair]) -> str:
    """What one run of each, the guide and the unguided answer, told about guidance in the same seed."""
    lines = []
    for start, chosen in STARTS.items():
        for name, (low, high) in BANDS.items():
            part = [p for p in found if chosen(p.guided) and low < p.run[0] <= high]
            gains = [pair.run[1] for pair in part]
            if gains:
                spread = f"{statistics.fmean(gains):+.1f} ({min(gains):+.1f} … {max(gains):+.1f})"
            else:
                spread = ""
            settings = len({pair.setting for pair in part})
            counts = [str(n) for n in (settings, len(part), sum(gain > 0 for gain in gains))]
            lines.append([start, name, *counts, spread])
    head = (
        "start|guide, to the unguided answer|settings|pairs|of them gain|gain, mean (least … most)"
    )
    return table(head.split("|"), "llrrrr", lines)


def draw(found: list[Pair]) -> None:
    plt = plots()
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6))
    for axis, points, title in zip(
        axes, (of_run, of_classes), ("a run", "a class of a run"), strict=True
    ):
        size = 5 if points is of_run else 3
        for i, (name, chosen) in enumerate(STARTS.items()):
            part = [pair for pair in found if chosen(pair.guided)]
            for study, marker in MARKERS.items():
                mine = [p for pair in part if pair.guided["study"] == study for p in points(pair)]
                if mine:
                    x, y = np.array(mine).T
                    label = f"{study.removesuffix('-guidance')}, {name}"
                    axis.plot(x, y, marker, color=f"C{i}", alpha=0.5, markersize=size, label=label)
            x, y = np.array([p for pair in part for p in points(pair)]).T
            slope, intercept, _ = fitted(list(zip(x, y, strict=True)))
            ends = np.array([x.min(), x.max()])
            axis.plot(ends, slope * ends + intercept, color=f"C{i}")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_title(f"each point {title}", fontsize=10)
        axis.set_xlabel("guide − unguided answer, points")
        axis.set_ylabel("guided − unguided answer, points")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(PICTURES / "guidance-handicap.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("studies", nargs="*", help=f"of {', '.join(MARKERS)}; all by default")
    given = parser.parse_args()
    if unknown := set(given.studies) - set(MARKERS):
        parser.error(f"there is no study '{min(unknown)}'; known: {', '.join(MARKERS)}.")
    found = pairs([run for study in given.studies or MARKERS for run in read(study)])
    if given.studies:  # the page is of all
        print(fits(found))
        return
    PAGE.write_text(put(PAGE, {"rule": rule(found), "handicap": fits(found)}), encoding="utf-8")
    draw(found)
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
