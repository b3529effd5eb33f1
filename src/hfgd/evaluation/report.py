"""Results for people and programs: report.md, report.json, and a table for the terminal.

Percent with two decimals for people, fractions in the JSON.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from hfgd.evaluation.scores import Scores
from hfgd.files import write_text
from hfgd.inference.protocol import SINGLE_SCALE, Protocol
from hfgd.inference.temperature import TemperatureFit
from hfgd.text import counted, inline

WORST = 8  # images that are named and shown


@dataclass(frozen=True)
class Report:
    """Scores, and what they are the scores of."""

    model: str
    data: str
    images: int
    scores: Scores
    branch: str = "fine"
    protocol: Protocol = SINGLE_SCALE
    facts: dict[str, Any] = field(default_factory=dict)  # iteration, seconds, …
    groups: dict[str, list[str]] = field(default_factory=dict)  # classes scored as one
    calibration: TemperatureFit | None = None

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values; scores are fractions, None where a class is absent."""
        scores = self.scores
        rows = zip(
            scores.classes.names,
            scores.iou,
            scores.accuracy,
            scores.f1,
            scores.boundary_iou,
            scores.label_pixels,
            strict=True,
        )
        return {
            "model": self.model,
            "data": self.data,
            "images": self.images,
            "protocol": self.protocol.model_dump(mode="json"),
            "branch": self.branch,
            **self.facts,
            **{name: _plain(value) for name, value in scores.all_means().items()},
            "boundary width": scores.boundary_width,
            "groups": {name: _plain(scores.group_iou(g)) for name, g in self.groups.items()},
            "classes": [
                {
                    "name": name,
                    "IoU": _plain(iou),
                    "Acc": _plain(acc),
                    "F1": _plain(f1),
                    "BIoU": _plain(biou),
                    "pixels": int(pixels),
                }
                for name, iou, acc, f1, biou, pixels in rows
            ],
            "absent": scores.absent,
            "confusion": scores.matrix.tolist(),
            "per image": self._per_image(),
            **({"calibration": self.calibration.as_dict()} if self.calibration else {}),
        }

    def markdown(self) -> str:
        """The report as Markdown; scores in percent."""
        scores = self.scores
        facts = "".join(f"- {inline(key)}: {inline(value)}\n" for key, value in self.facts.items())
        means = " · ".join(f"**{k} {percent(v)}**" for k, v in scores.all_means().items())
        rows = "".join(f"| {' | '.join(map(inline, row))} |\n" for row in self._rows())
        named = ", ".join(map(inline, scores.absent))
        absent = (
            f"\nAbsent from labels and predictions, in no mean: {named}.\n" if scores.absent else ""
        )
        return (
            f"# {inline(self.model)} on {inline(self.data)}\n\n"
            f"- images: {self.images}\n- protocol: {self.protocol.describe()}\n"
            f"- branch: {self.branch}\n{facts}\n"
            f"{means} (percent)\n\n"
            f"| {' | '.join(self._columns())} |\n| --- |{' ---: |' * (len(self._columns()) - 1)}\n"
            f"{rows}{absent}{self._boundary()}{self._confidence()}{self._groups()}{self._worst()}"
        )

    def table(self) -> Table:
        """The same for the terminal."""
        table = Table(title=f"{self.model} on {self.data}, {counted(self.images, 'image')}")
        for column in self._columns():
            table.add_column(column, justify="left" if column == "class" else "right")
        for row in self._rows():
            table.add_row(*row)
        return table

    def save(self, folder: Path) -> None:
        """Write report.json and report.md into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "report.json", json.dumps(self.as_dict(), indent=1) + "\n")
        write_text(folder / "report.md", self.markdown())

    def _per_image(self) -> dict[str, float | None]:
        """mIoU of each image over the classes in it."""
        images = self.scores.images
        if images is None:
            return {}
        return {n: _plain(v) for n, v in zip(images.names, images.miou().tolist(), strict=True)}

    def _columns(self) -> list[str]:
        boundary = [] if self.scores.boundary is None else ["BIoU"]
        return ["class", "IoU", "Acc", "F1", *boundary, "label pixels"]

    def _rows(self) -> list[list[str]]:
        return [
            [
                f"{row[c]:,}" if c == "pixels" else row[c] if c == "name" else percent(row[c])
                for c in ("name", *self._columns()[1:-1], "pixels")
            ]
            for row in self.as_dict()["classes"]
        ]

    def _boundary(self) -> str:
        width = self.scores.boundary_width
        if width is None:
            return ""
        return f"\nBIoU: boundary IoU, {100 * width:g} % of the image diagonal wide.\n"

    def _confidence(self) -> str:
        fitted = self.calibration
        if fitted is None:
            return ""
        return (
            f"\nConfidence: expected calibration error {percent(fitted.before)} before and "
            f"{percent(fitted.after)} after (percent), temperature {fitted.temperature:.3f}; after: "
            "each half of the images with the temperature of the other.\n"
        )

    def _groups(self) -> str:
        lines = [
            f"- {inline(name)} ({', '.join(map(inline, classes))}): "
            f"IoU {percent(self.scores.group_iou(classes))}"
            for name, classes in self.groups.items()
        ]
        return _listed("Groups, each scored as one class", lines)

    def _worst(self) -> str:
        worst = worst_images(self.scores, WORST)
        lines = [f"- {inline(name)}: {percent(value)}" for name, value in worst]
        return _listed("Worst images, by mean IoU over the classes in each", lines)


def _listed(title: str, lines: Sequence[str]) -> str:
    return "\n".join(["", title, "", *lines, ""]) if lines else ""


def worst_images(scores: Scores, count: int) -> list[tuple[str, float]]:
    """Names and mean IoU of the images that came out worst; images without labels are left out."""
    if scores.images is None:
        return []
    miou = scores.images.miou()
    order = [int(i) for i in np.argsort(miou, kind="stable") if np.isfinite(miou[i])][:count]
    return [(scores.images.names[i], float(miou[i])) for i in order]


def percent(value: float | None) -> str:
    """A fraction as percent with two decimals; '–' where there is none."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.2f}"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
