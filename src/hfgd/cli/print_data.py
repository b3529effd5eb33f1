"""What ``hfgd data import`` and ``hfgd data split`` tell of their work."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from hfgd.text import counted

if TYPE_CHECKING:
    from hfgd.data.importing.import_data import ImportReport
    from hfgd.data.importing.split import SplitOutcome


PAIRS = 3  # of classes that overlap are shown


def print_import(report: "ImportReport") -> None:
    """Format, splits, classes, what unlabelled pixels became, what overlapped, what was left out."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"format: {report.format}, {report.reason}", markup=False)
    counts = ", ".join(f"{split} {number:,}" for split, number in report.splits.items())
    console.print(f"images: {counts} (split: {report.split_rule})", markup=False)
    console.print(_table(report))
    total = max(1, int(report.pixels.sum()))
    share = 100 * report.unlabelled_pixels / total
    became = f"'{report.unlabelled}'"
    if report.unlabelled == "ignore":
        became = "ignored (--unlabelled background makes them a class)"
    console.print(f"unlabelled: {share:.2f} % of the pixels; they became {became}", markup=False)
    console.print(_overlaps(report), markup=False)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"files: {report.written:,} written, {report.kept:,} there already")


def _table(report: "ImportReport") -> Table:
    total = max(1, int(report.pixels.sum()))
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for name in ("% of pixels", "images", *(["shapes"] if report.shapes else [])):
        table.add_column(name, justify="right")
    for i, (name, pixels) in enumerate(
        zip([*report.classes.names, "(ignored)"], report.pixels, strict=True)
    ):
        row = [name, f"{100 * pixels / total:.3f}"]
        is_class = i < len(report.classes)
        row.append(f"{report.images_with_class[i]:,}" if is_class else "")
        if report.shapes:
            row.append(f"{report.shapes[i]:,}" if is_class else "")
        table.add_row(*row)
    return table


def _overlaps(report: "ImportReport") -> str:
    if not report.shapes:
        return "overlaps: none possible, the source has one class a pixel"
    if not report.contested:
        return "overlaps: none between classes"
    pairs = ", ".join(
        f"{above} over {below} {pixels:,}"
        for (above, below), pixels in report.overlaps.most_common(PAIRS)
    )
    return (
        f"overlaps: pixels of several classes {report.contested:,}, images with such "
        f"{report.contested_images:,}; on top is the {report.rule} shape (--on-overlap): {pairs}"
    )


def print_split(outcome: "SplitOutcome") -> None:
    """Groups and images of both sides, and how much of every class val has."""
    console = Console(highlight=False, soft_wrap=True)
    images = sum(outcome.images.values())
    for split, groups in outcome.groups.items():
        number = outcome.images[split]
        console.print(
            f"{split}: {counted(len(groups), 'group')}, {counted(number, 'image')} "
            f"({100 * number / images:.1f} %): {_few(groups)}",
            markup=False,
        )
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    table.add_column("% of its pixels in val", justify="right")
    for i, name in enumerate(outcome.classes.names):
        train, val = (int(outcome.pixels[split][i]) for split in ("train", "val"))
        table.add_row(name, f"{100 * val / (train + val):.1f}" if train + val else "none")
    console.print(table)
    for split in outcome.others:
        console.print(f"{split}: as it was", markup=False)
    console.print(f"files: {outcome.written:,} written")


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
