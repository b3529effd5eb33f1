"""``hfgd data``: looking after data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from hfgd.data.check import CheckReport, SplitReport

app = typer.Typer(no_args_is_help=True, help="Check a data folder; write a data set out.")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="The folder with images/ and labels/.")],
    data_yaml: Annotated[
        Path | None, typer.Option(help="A data.yaml that does not lie in the folder.")
    ] = None,
) -> None:
    """Read every file before a training run does; exit code 1 on what would break it."""
    from hfgd.data.check import check_folder
    from hfgd.data.folder import FolderData
    from hfgd.progress import Progress

    data = FolderData(folder, data_yaml)
    total = sum(len(data.files(split)[0]) for split in data.splits())
    with Progress("reading", total) as progress:
        report = check_folder(data, lambda done, _: progress.update(done))
    _print(report)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="'scenes', or a data folder.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not hold data yet.")],
    train: Annotated[int | None, typer.Option(min=1, help="Number of train scenes.")] = None,
    val: Annotated[int | None, typer.Option(min=1, help="Number of val scenes.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other scenes.")] = 0,
) -> None:
    """Write a data set as an ordinary data folder with images/, labels/ and data.yaml."""
    from hfgd.data.export import export as write
    from hfgd.data.open import SCENES, open_dataset
    from hfgd.data.scenes import ScenesDataset
    from hfgd.progress import Progress

    splits = {
        split: ScenesDataset(split, count, seed) if name == SCENES else open_dataset(name, split)
        for split, count in (("train", train), ("val", val))
    }
    with Progress("writing", sum(map(len, splits.values()))) as progress:
        path = write(splits, out, lambda done, _: progress.update(done))
    print(f"written: {path}")
    print(f"next:    hfgd data check {out}")


def _print(report: "CheckReport") -> None:
    console = Console(highlight=False, soft_wrap=True)
    for split in report.splits:
        sizes = ", ".join(f"{h}×{w} ({n})" for (h, w), n in split.sizes.most_common(3))
        more = f" and {len(split.sizes) - 3} other sizes" if len(split.sizes) > 3 else ""
        console.print(
            f"\n[bold]{report.root.name}/{split.split}[/bold]: {split.pairs} pairs; {sizes}{more}"
        )
        _print_shares(console, report, split)
        _print_lines(console, "problem", split.problems, "red")
        _print_lines(console, "note", split.remarks, "yellow")
    problems = sum(len(split.problems) for split in report.splits)
    good = "good: nothing here would break a training run."
    console.print(
        f"\n{good}" if report.ok else f"\n{problems} problems would break a training run."
    )


def _print_shares(console: Console, report: "CheckReport", split: "SplitReport") -> None:
    total = max(1, int(split.pixels.sum()))
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    table.add_column("% of pixels", justify="right")
    table.add_column("images", justify="right")
    rows = zip([*report.classes.names, "(ignored)"], split.pixels, strict=True)
    for i, (name, pixels) in enumerate(rows):
        images = str(split.images_with_class[i]) if i < len(report.classes) else ""
        table.add_row(name, f"{100 * pixels / total:.3f}", images)
    console.print(table)


def _print_lines(console: Console, kind: str, lines: list[str], style: str) -> None:
    from hfgd.data.check import SHOWN

    for line in lines[:SHOWN]:
        console.print(f"[{style}]{kind}[/{style}] ", end="")
        console.print(line, markup=False)
    if len(lines) > SHOWN:
        console.print(f"… and {len(lines) - SHOWN} more of these")
