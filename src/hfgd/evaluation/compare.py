"""``hfgd compare``: models side by side on the same images, with honest intervals.

The paper's Figures 3, 7, 8 and 9 are such panels. Differences come with a paired bootstrap interval
over the images: both models are scored on the same resampled images, 1000 times.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hfgd.data.dataset import SegDataset
from hfgd.errors import HfgdError
from hfgd.evaluation.evaluate_model import EvalConfig, scored
from hfgd.evaluation.page.gallery import Shown
from hfgd.evaluation.page.report_page import comparison_page, run_folder_of
from hfgd.evaluation.page.sections import Table
from hfgd.evaluation.page.thumbnails import pictures_in
from hfgd.evaluation.plots import panel_row, panels
from hfgd.evaluation.report import percent
from hfgd.evaluation.scores import Floats, ImageCounts, Scores
from hfgd.files import write_text
from hfgd.inference.labeller import InferenceConfig, Labeller, open_labeller, origin
from hfgd.text import inline

RESAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """IoU of the second model minus the first, in points, with its 95 % interval; NaN if absent."""

    name: str
    first: float
    second: float
    low: float
    high: float

    @property
    def points(self) -> float:
        """The difference itself."""
        return 100 * (self.second - self.first)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values; None for NaN, which JSON does not have."""
        return {k: None if v != v else v for k, v in vars(self).items()}


def differences(first: Scores, second: Scores, seed: int = 0) -> list[Difference]:
    """Per class, and mIoU last. Raises HfgdError where the two were not scored on the same images."""
    if first.images is None or second.images is None or first.images.names != second.images.names:
        raise HfgdError("the two models were not scored on the same images.")
    low, high = bootstrap(first.images, second.images, seed)
    names = [*first.classes.names, "mIoU"]
    a, b = [*first.iou, first.miou], [*second.iou, second.miou]
    return [Difference(*row) for row in zip(names, a, b, low, high, strict=True)]


def bootstrap(first: ImageCounts, second: ImageCounts, seed: int) -> tuple[Floats, Floats]:
    """95 % interval of the differences in points (K + 1,): classes, then mIoU."""
    count = len(first.names)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)  # (R, N)

    def resampled(images: ImageCounts) -> Floats:
        sums = np.tensordot(weights, images.counts, axes=1)  # (R, 3, K)
        iou = ImageCounts([""] * RESAMPLES, sums).iou()
        means = ImageCounts([""] * RESAMPLES, sums).miou()
        return np.concatenate([iou, means[:, None]], axis=1)

    change = 100 * (resampled(second) - resampled(first))
    low, high = np.full((2, change.shape[1]), np.nan)
    for k in range(change.shape[1]):
        known = change[np.isfinite(change[:, k]), k]
        if len(known):
            low[k], high[k] = np.percentile(known, [2.5, 97.5])
    return low, high


def compare(
    paths: Sequence[str], how: InferenceConfig, what: EvalConfig, out: Path, count: int = 6
) -> str:
    """Score the models on one data set and write compare.md, .json, .png and report.html.

    ``how`` is for all models, but a model of another branch keeps it. ``count``: images in the
    picture. Returns the Markdown.
    """
    if len(paths) < 2:
        raise HfgdError("compare takes two models or more.")
    names = titles(paths)
    dataset = what.dataset()
    how = replace(how, crop=origin(paths[0]).crop)  # one protocol for all
    labellers = {t: open_labeller(p, how) for t, p in zip(names, paths, strict=True)}
    out.mkdir(parents=True, exist_ok=True)  # where it cannot be, nothing is scored in vain
    with pictures_in(out) as pictures:
        scores = {
            t: scored(x, dataset, what, f"scoring {t}", pictures, model)
            for model, (t, x) in enumerate(labellers.items())
        }
        first, *others = scores
        found = {title: differences(scores[first], scores[title]) for title in others}
        facts = _facts(labellers, dataset)
        shown = Shown(scores, dataset, pictures, what.gallery)
        tables = [_table(first, title, rows) for title, rows in found.items()]
        places = {t: run_folder_of(origin(p).place) for t, p in zip(names, paths, strict=True)}
        runs = {title: place for title, place in places.items() if place is not None}
        comparison_page(f"Compared on {dataset.title}", scores, tables, shown, facts, out, runs)
    text = _markdown(first, found, dataset, facts)
    write_text(out / "compare.md", text)
    rows = {title: [d.as_dict() for d in rows] for title, rows in found.items()}
    protocol = labellers[first].protocol.model_dump(mode="json")
    content = {"data": dataset.title, "protocol": protocol, "first": first, "differences": rows}
    write_text(out / "compare.json", json.dumps(content, indent=1) + "\n")
    chosen = telling_images(scores[first], scores[others[-1]], count)
    if chosen:
        panel_rows = [panel_row(labellers, dataset[i]) for i in chosen]
        panels(panel_rows, dataset.classes, out / "compare.png", differences=True)
    return text


def _facts(labellers: Mapping[str, Labeller], dataset: SegDataset) -> dict[str, str]:
    first = next(iter(labellers.values()))
    facts = {
        "images": str(len(dataset)),
        "protocol": first.protocol.describe(),
        "precision": ", ".join(dict.fromkeys(x.precision for x in labellers.values())),
    }
    branches = {t: x.branch for t, x in labellers.items() if x.branch != "fine"}
    if branches:
        facts["branch"] = ", ".join(f"{branch} of {title}" for title, branch in branches.items())
    return facts


def _table(first: str, second: str, rows: Sequence[Difference]) -> Table:
    """The differences for a page."""
    columns = ["class", first, second, "difference", "from", "to"]
    cells: list[list[str | float | int | None]] = [
        [row.name, 100 * row.first, 100 * row.second, row.points, row.low, row.high] for row in rows
    ]
    note = f"IoU in percent; from … to: 95 % interval, {RESAMPLES} paired resamples of the images."
    return Table(f"{second} against {first}", columns, cells, dict.fromkeys(columns, 2), note)


def titles(paths: Sequence[str]) -> list[str]:
    """A short, distinct title for each model: the last part of its path that tells them apart."""
    parts = [Path(path).resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise HfgdError("compare was given the same model twice.")


def telling_images(first: Scores, second: Scores, count: int) -> list[int]:
    """The images on which the second model gains most, and those on which it loses most."""
    assert first.images is not None
    assert second.images is not None
    change = second.images.miou() - first.images.miou()
    known = [int(i) for i in np.argsort(change, kind="stable") if np.isfinite(change[i])]
    losses, gains = known[: count // 2], known[::-1][: count - count // 2]
    return list(dict.fromkeys([*gains, *losses[::-1]]))


def _markdown(
    first: str, found: dict[str, list[Difference]], dataset: SegDataset, facts: dict[str, str]
) -> str:
    lines = [
        f"# Compared on {inline(dataset.title)}",
        "",
        *(f"- {name}: {inline(value)}" for name, value in facts.items()),
        f"- interval: 95 %, paired bootstrap over the images, {RESAMPLES} resamples",
    ]
    for title, rows in found.items():
        lines += [
            "",
            f"| IoU, percent | {inline(first)} | {inline(title)} | difference | interval |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for row in rows:
            interval = "–" if np.isnan(row.low) else f"{row.low:+.2f} … {row.high:+.2f}"
            points = "–" if np.isnan(row.points) else f"{row.points:+.2f}"
            values = f"{percent(row.first)} | {percent(row.second)}"
            lines.append(f"| {inline(row.name)} | {values} | {points} | {interval} |")
    return "\n".join(lines) + "\n"
