"""Results for people and programs: report.md, report.json, and a table for the terminal.

Percent with two decimals for people, fractions in the JSON.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from hfgd.evaluation.evaluate import SINGLE_SCALE
from hfgd.evaluation.scores import Scores
from hfgd.files import write_text


@dataclass(frozen=True)
class Report:
    """Scores, and what they are the scores of."""

    model: str
    data: str
    images: int
    scores: Scores
    branch: str = "fine"
    protocol: str = SINGLE_SCALE
    facts: dict[str, Any] = field(default_factory=dict)  # iteration, seconds, …

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values; scores are fractions, None where a class is absent."""
        scores = self.scores
        rows = zip(
            scores.classes.names,
            scores.iou,
            scores.accuracy,
            scores.f1,
            scores.label_pixels,
            strict=True,
        )
        return {
            "model": self.model,
            "data": self.data,
            "images": self.images,
            "protocol": self.protocol,
            "branch": self.branch,
            **self.facts,
            **{name: _plain(value) for name, value in scores.summary().items()},
            "classes": [
                {
                    "name": name,
                    "IoU": _plain(iou),
                    "Acc": _plain(acc),
                    "F1": _plain(f1),
                    "pixels": int(pixels),
                }
                for name, iou, acc, f1, pixels in rows
            ],
            "absent": scores.absent,
            "confusion": scores.matrix.tolist(),
        }

    def markdown(self) -> str:
        """The report as Markdown; scores in percent."""
        scores = self.scores
        facts = "".join(f"- {key}: {value}\n" for key, value in self.facts.items())
        means = " · ".join(f"**{k} {percent(v)}**" for k, v in scores.summary().items())
        rows = "".join(f"| {' | '.join(row)} |\n" for row in self._rows())
        absent = (
            f"\nAbsent from labels and predictions, in no mean: {', '.join(scores.absent)}.\n"
            if scores.absent
            else ""
        )
        return (
            f"# {self.model} on {self.data}\n\n"
            f"- images: {self.images}\n- protocol: {self.protocol}\n- branch: {self.branch}\n{facts}\n"
            f"{means} (percent)\n\n"
            "| class | IoU | Acc | F1 | label pixels |\n| --- | ---: | ---: | ---: | ---: |\n"
            f"{rows}{absent}"
        )

    def table(self) -> Table:
        """The same for the terminal."""
        table = Table(title=f"{self.model} on {self.data}, {self.images} images")
        table.add_column("class")
        for column in ("IoU", "Acc", "F1", "label pixels"):
            table.add_column(column, justify="right")
        for row in self._rows():
            table.add_row(*row)
        return table

    def save(self, folder: Path) -> None:
        """Write report.json and report.md into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "report.json", json.dumps(self.as_dict(), indent=1) + "\n")
        write_text(folder / "report.md", self.markdown())

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        return [
            (
                row["name"],
                percent(row["IoU"]),
                percent(row["Acc"]),
                percent(row["F1"]),
                f"{row['pixels']:,}",
            )
            for row in self.as_dict()["classes"]
        ]


def percent(value: float | None) -> str:
    """A fraction as percent with two decimals; '–' where there is none."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.2f}"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
