"""``hfgd ablate``: all rows of a table on any data, over seeds, resumable row by row."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hfgd.errors import HfgdError, unknown
from hfgd.evaluation.plots import ablation_bars
from hfgd.files import write_text
from hfgd.parallel.launch import is_main
from hfgd.parse import read_json
from hfgd.progress import say
from hfgd.recipes import ROWS, TABLES, PaperRow, toy
from hfgd.training.fit import fit
from hfgd.training.run_folder import RunFolder


@dataclass(frozen=True)
class RowResult:
    """One row: mIoU of each seed as a fraction, and the paper's single-scale number in percent."""

    name: str
    what: str
    miou: list[float]
    paper: float | None

    @property
    def mean(self) -> float:
        """Mean over the seeds, in percent."""
        return 100 * statistics.fmean(self.miou)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds, in points; None for one seed."""
        return 100 * statistics.stdev(self.miou) if len(self.miou) > 1 else None


def find_rows(names: Sequence[str]) -> list[PaperRow]:
    """The rows of tables ('table3' or '3') and single rows ('table3/full'), each once, in order."""
    rows: dict[str, PaperRow] = {}
    for name in names:
        table = f"table{name}" if name.isdecimal() else name
        if table in TABLES:
            rows |= {row.name: row for row in TABLES[table]}
        elif table in ROWS:
            rows[table] = ROWS[table]
        else:
            raise unknown("table or row", name, [*TABLES, *ROWS])
    return list(rows.values())


def ablate(
    names: Sequence[str],
    changes: Mapping[str, Any],
    out: Path,
    seeds: int = 1,
    as_toy: bool = False,
    code: Path | None = None,
) -> list[RowResult]:
    """Run every row with every seed into ``out/TABLE-ROW/seedN`` and write the table, after each run.

    A run that is done is not repeated; one that was interrupted goes on. ``changes``: dotted recipe
    keys for every row. Raises HfgdError where a finished run was made with other settings.
    """
    rows = find_rows(names)
    total = len(rows) * seeds
    results: dict[str, RowResult] = {}
    for number, (row, seed) in enumerate(((r, s) for s in range(seeds) for r in rows), start=1):
        say(f"\n[{number}/{total}] {row.name}, seed {seed}: {row.what}")
        miou = _run(row, {**changes, "train.seed": seed}, out, seed, as_toy, code)
        before = results[row.name].miou if row.name in results else []
        results[row.name] = RowResult(row.name, row.what, [*before, miou], row.paper.get("ss"))
        if is_main():
            _write(list(results.values()), out, changes)
    return list(results.values())


def _run(
    row: PaperRow, changes: Mapping[str, Any], out: Path, seed: int, as_toy: bool, code: Path | None
) -> float:
    recipe = toy(row.recipe()) if as_toy else row.recipe()
    folder = out / row.name.replace("/", "-") / f"seed{seed}"
    recipe = recipe.with_(**changes)
    report = folder / "report.json"
    before = report.is_file()
    if before:
        RunFolder(folder).resume(recipe)  # refuses a run of other settings
        content = read_json(report)
        found = content.get("mIoU") if isinstance(content, dict) else None
        miou = float(found) if isinstance(found, int | float) else math.nan
    else:
        resume = (folder / "recipe.yaml").is_file()
        miou = fit(recipe, folder, resume, code=code).report.scores.miou
    if math.isnan(miou):  # which JSON does not have, and no table needs
        raise HfgdError(
            f"'{report}' has no mIoU, as no class was in the labels; delete '{folder}' to run it again."
        )
    if before:
        say(f"done before: mIoU {100 * miou:.2f}")
    return miou


def _write(results: list[RowResult], out: Path, changes: Mapping[str, Any]) -> None:
    content = {"changes": dict(changes), "rows": [asdict(r) for r in results]}
    write_text(out / "ablation.json", json.dumps(content, indent=1) + "\n")
    write_text(out / "ablation.md", markdown(results, changes))
    bars = [(_shown(r, results), r.mean, r.spread) for r in results]
    ablation_bars(bars, f"{_title(results)} on this data", out / "ablation.png")


def _title(results: Sequence[RowResult]) -> str:
    """The tables of the rows: 'table3', 'table3, section5.2'."""
    return ", ".join(dict.fromkeys(result.name.split("/")[0] for result in results))


def _shown(result: RowResult, results: Sequence[RowResult]) -> str:
    """A row's name, without its table where all rows are of one."""
    return result.name if "," in _title(results) else result.name.split("/")[1]


def markdown(results: Sequence[RowResult], changes: Mapping[str, Any]) -> str:
    """The table: mean ± spread, the difference to the first row, and the paper's beside it."""
    first = results[0]
    lines = [
        f"# {_title(results)}",
        "",
        "mIoU in percent, mean ± standard deviation over the seeds; Δ: difference to the first row; "
        "the last two columns are the paper's, on its own data set.",
        "",
        "| row | what | seeds | mIoU | Δ | paper mIoU | paper Δ |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        spread = "" if result.spread is None else f" ± {result.spread:.2f}"
        paper = "–" if result.paper is None else f"{result.paper:.2f}"
        known = result.paper is not None and first.paper is not None
        paper_delta = f"{result.paper - first.paper:+.2f}" if known else "–"  # type: ignore[operator]
        lines.append(
            f"| {_shown(result, results)} | {result.what} | {len(result.miou)} "
            f"| {result.mean:.2f}{spread} | {result.mean - first.mean:+.2f} | {paper} | {paper_delta} |"
        )
    if changes:
        settings = ", ".join(f"{key}={value}" for key, value in changes.items())
        lines += ["", f"Changed from the paper's recipes: {settings}"]
    return "\n".join(lines) + "\n"
