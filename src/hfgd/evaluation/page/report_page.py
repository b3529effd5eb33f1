"""report.html, the report one can click: of a run, an evaluation, a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hfgd.evaluation.page.gallery import Shown
from hfgd.evaluation.page.sections import Curves, Matrix, Plot, Section, Table
from hfgd.evaluation.page.write_page import write_page
from hfgd.evaluation.plots import csv_columns
from hfgd.evaluation.report import Report, percent
from hfgd.evaluation.scores import Scores

NAME = "report.html"
LOSS_TITLE, VAL_TITLE = "losses", "validation, percent"


def report_page(report: Report, shown: Shown, folder: Path, run: Path | None) -> None:
    """Write report.html beside report.md. ``run``: the run folder whose curves are shown."""
    sections: list[Section] = []
    if run is not None:
        sections += run_curves({report.model: run})
    sections += [_classes(report), confusion({report.model: report.scores}), *shown.galleries()]
    facts = {
        "images": str(report.images),
        "protocol": report.protocol.describe(),
        "branch": report.branch,
        **{name: str(value) for name, value in report.facts.items()},
    }
    facts |= {f"IoU of {g}": percent(report.scores.group_iou(c)) for g, c in report.groups.items()}
    title = f"{report.model} on {report.data}"
    write_page(folder / NAME, title, sections, numbers(report.scores), facts)


def comparison_page(
    title: str,
    models: Mapping[str, Scores],
    differences: Sequence[Table],
    shown: Shown,
    facts: Mapping[str, str],
    folder: Path,
    runs: Mapping[str, Path],
) -> None:
    """Write report.html of several models; ``runs``: the run folders of those that have one."""
    sections: list[Section] = [
        *run_curves(runs),
        *differences,
        confusion(models),
        *shown.galleries(),
    ]
    heads = {f"mIoU of {name}": percent(scores.miou) for name, scores in models.items()}
    write_page(folder / NAME, title, sections, heads, facts)


def numbers(scores: Scores) -> dict[str, str]:
    """The means for the head of a page, in percent."""
    return {name: percent(value) for name, value in scores.all_means().items()}


def _classes(report: Report) -> Table:
    scores = report.scores
    columns = {
        "IoU": scores.iou,
        "Acc": scores.accuracy,
        "precision": scores.precision,
        "F1": scores.f1,
        **({} if scores.boundary is None else {"BIoU": scores.boundary_iou}),
    }
    names, palette = scores.classes.names, scores.classes.palette
    rows: list[list[str | float | int | None]] = [
        [
            name,
            *(100 * float(values[k]) for values in columns.values()),
            int(scores.label_pixels[k]),
        ]
        for k, name in enumerate(names)
    ]
    note = "Percent. A class that is in no label and no prediction has none and is in no mean."
    titles = ["class", *columns, "label pixels"]
    return Table(
        "classes",
        titles,
        rows,
        dict.fromkeys(columns, 2),
        note,
        dict(zip(names, palette, strict=True)),
    )


def confusion(models: Mapping[str, Scores]) -> Matrix:
    """The confusion matrix of each model."""
    names = next(iter(models.values())).classes.names
    return Matrix("confusion", names, {t: scores.matrix.tolist() for t, scores in models.items()})


def run_folder_of(model: Path) -> Path | None:
    """The run folder that a model's path lies in, where there is one."""
    places = (model, model.parent, model.parent.parent)  # of a run, of RUN/last, of RUN/kept/N
    return next((place for place in places if (place / "logs" / "val.csv").is_file()), None)


def run_curves(runs: Mapping[str, Path]) -> list[Curves]:
    """Losses and validation scores over the iterations of one run or several; none without logs."""
    plots = [
        _plot(LOSS_TITLE, {t: run / "logs" / "train.csv" for t, run in runs.items()}, 1, log=True),
        _plot(VAL_TITLE, {t: run / "logs" / "val.csv" for t, run in runs.items()}, 100),
    ]
    drawn = [plot for plot in plots if plot.lines]
    return [Curves("curves", drawn)] if drawn else []


def _plot(title: str, files: Mapping[str, Path], scale: float, log: bool = False) -> Plot:
    """The columns of CSV files; those of several runs lie over one axis."""
    tables = {name: csv_columns(file) for name, file in files.items()}
    x = sorted({int(i) for table in tables.values() for i in table["iteration"]})
    lines: dict[str, Sequence[float | None]] = {}
    for name, table in tables.items():
        of = f" of {name}" if len(tables) > 1 else ""
        for column in table.keys() - {"iteration", "lr"}:
            found = dict(zip(map(int, table["iteration"]), table[column], strict=True))
            lines[f"{column}{of}"] = [scale * found[i] if i in found else None for i in x]
    return Plot(title, "iteration", x, dict(sorted(lines.items(), key=_main_first)), log)


def _main_first(line: tuple[str, object]) -> tuple[bool, str]:
    return line[0].split()[0] not in ("loss", "mIoU"), line[0]
