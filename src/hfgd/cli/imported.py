"""What ``hfgd data import`` tells of its work."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from hfgd.data.importer import ImportReport

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
    became = "ignored" if report.unlabelled == "ignore" else f"'{report.unlabelled}'"
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
        f"overlaps: {report.contested:,} pixels in {report.contested_images:,} images; on top is "
        f"the {report.rule} shape (--on-overlap): {pairs}"
    )
