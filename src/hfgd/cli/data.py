"""``hfgd data``: looking after data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hfgd.cli.print_table import show
from hfgd.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hfgd.data.check import CheckReport, SplitReport

app = typer.Typer(
    no_args_is_help=True, help="Bring, check, split a data folder; write a data set out."
)


@app.command()
def check(
    folder: Annotated[
        str, typer.Argument(help="The folder with images/ and labels/, or NAME:PATH.")
    ],
    data_yaml: Annotated[
        Path | None, typer.Option(help="A data.yaml that does not lie in the folder.")
    ] = None,
) -> None:
    """Read every file before a training run does.

    Exit code 1 on what would break it.
    """
    from hfgd.data.check import check_folder
    from hfgd.data.open import open_files
    from hfgd.progress import Progress

    data = open_files(folder, data_yaml)
    total = sum(len(data.files(split)[0]) for split in data.splits())
    with Progress("reading", total) as progress:
        report = check_folder(data, lambda done, _: progress.update(done))
    _print(report)
    raise typer.Exit(0 if report.ok else 1)


@app.command("import")
def import_(
    path: Annotated[
        Path, typer.Argument(help="What the annotation tool wrote: folder, zip, file.")
    ],
    out: Annotated[Path, typer.Option(help="The data folder to write; may be half done.")],
    format: Annotated[
        str, typer.Option(help="coco, labelme, cvat, …; auto says which it takes, and why.")
    ] = "auto",
    split: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of train, where the source has no splits."),
    ] = 0.8,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws another split.")] = 0,
    unlabelled: Annotated[
        str | None,
        typer.Option(
            help="What pixels that nobody labelled become: ignore, background, or a class; "
            "the format's own rule by default."
        ),
    ] = None,
    on_overlap: Annotated[
        Literal["last", "first", "smallest"],
        typer.Option(help="Which of several shapes of different classes has a pixel."),
    ] = "last",
    link: Annotated[
        bool, typer.Option("--link", help="Link the images, do not copy them.")
    ] = False,
    rle_order: Annotated[
        Literal["columns", "rows"] | None,
        typer.Option(
            help="How a csv's run lengths count pixels; decided by the file if not given."
        ),
    ] = None,
) -> None:
    """Make a data folder of COCO, LabelMe, CVAT, … files.

    Can be repeated and resumed.
    """
    from hfgd.cli.print_data import print_import
    from hfgd.data.importing.import_data import import_data
    from hfgd.data.importing.write_import import Rules
    from hfgd.progress import Progress

    rules = Rules(format, split, seed, unlabelled, on_overlap, link, rle_order)
    with Progress("importing", 1) as progress:

        def tell(done: int, total: int) -> None:
            progress.total = total
            progress.update(done)

        report = import_data(path, out, rules, tell)
    print_import(report)
    print(f"next: hfgd data check {out}")


@app.command()
def split(
    folder: Annotated[Path, typer.Argument(help="A data folder; it is not changed.")],
    by: Annotated[
        str,
        typer.Option(
            help="What belongs together: a regular expression on the names, whose group is the "
            "key, e.g. '^(video[0-9]+)_'; or a csv with name,group."
        ),
    ],
    val: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of val.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Another seed searches elsewhere.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The data folder to write; FOLDER-split by default.")
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="Link the files, do not copy them.")] = False,
) -> None:
    """Deal train and val out anew, by whole groups.

    With like shares of every class in both.
    """
    from hfgd.cli.print_data import print_split
    from hfgd.data.importing.split import split_folder
    from hfgd.progress import Progress

    target = out or folder.with_name(f"{folder.resolve().name}-split")
    with Progress("counting", 1) as progress:

        def tell(done: int, total: int) -> None:
            progress.total = total
            progress.update(done)

        outcome = split_folder(folder, by, target, val, seed, link, tell)
    print_split(outcome)
    print(f"written: {target}")
    print(f"next:    hfgd data check {target}")


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="'scenes', or a data folder.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not hold data yet.")],
    train: Annotated[int | None, typer.Option(min=1, help="Number of train scenes.")] = None,
    val: Annotated[int | None, typer.Option(min=1, help="Number of val scenes.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other scenes.")] = 0,
) -> None:
    """Write a data set as an ordinary data folder.

    With images/, labels/ and data.yaml.
    """
    from hfgd.data.open import SCENES, open_dataset
    from hfgd.data.scenes import ScenesDataset
    from hfgd.data.write_folder import export as write
    from hfgd.progress import Progress

    splits = {
        split: ScenesDataset(split, count, seed) if name == SCENES else open_dataset(name, split)
        for split, count in (("train", train), ("val", val))
    }
    with Progress("writing", sum(map(len, splits.values()))) as progress:
        path = write(splits, out, lambda done, _: progress.update(done))
    print(f"written: {path}")
    print(f"next:    hfgd data check {out}")


@app.command()
def info(
    name: Annotated[
        str,
        typer.Argument(
            help="A known data set, or what data there is: a folder, NAME:PATH, or 'scenes'. "
            "All known ones without it."
        ),
    ] = "",
    data: Annotated[
        str | None, typer.Option(help="Where it lies; then its files are counted and shown.")
    ] = None,
    split: Annotated[str, typer.Option(help="The split of class shares and samples.")] = "train",
    limit: Annotated[int, typer.Option(min=1, help="Images read for the class shares.")] = 500,
    augment: Annotated[
        str | None,
        typer.Option(help="A recipe: draw what training by it will see, on a sheet."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --augment: change one key, e.g. augment.blur=2."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The sheet; samples.png, or augmented.png, without it."),
    ] = None,
) -> None:
    """What is known of a data set.

    Conventions, counts, class shares, a sheet of samples.
    """
    if augment is not None:
        from hfgd.cli.preview import show_augmented

        show_augmented(data or name, split, augment, settings or [], out or Path("augmented.png"))
        return
    from hfgd.data.known import KNOWN
    from hfgd.errors import unknown

    if name and name not in KNOWN:
        is_place = any(sign in name for sign in ":/\\") or Path(name).expanduser().exists()
        if not is_place and name != "scenes":
            raise unknown("known data set", name, KNOWN)
        _show_data(data or name, split, limit, out or Path("samples.png"))
        return
    for facts in [KNOWN[name]] if name else KNOWN.values():
        print(f"{facts.name}: {facts.title}, {len(facts.classes)} classes")
        print(f"  labels:   {facts.labels}")
        print(f"  expected: {', '.join(f'{s} {n:,}' for s, n in facts.expected.items())}")
        for layout in facts.layouts:
            print(f"  read as:  {layout.name}: {layout.image_form} with {layout.label_form}")
    if name and data is not None:
        own = (Path(data) / "data.yaml").is_file()
        place = data if own else f"{name}:{data}"
        _show_data(place, split, limit, out or Path("samples.png"), facts.expected)


@app.command("class-weights")
def class_weights_(
    data: Annotated[str, typer.Argument(help="A data folder, NAME:PATH, or 'scenes'.")],
    split: Annotated[str, typer.Option(help="The split to count.")] = "train",
    data_yaml: Annotated[
        Path | None, typer.Option(help="A data.yaml that does not lie in the folder.")
    ] = None,
    method: Annotated[
        Literal["median", "log"],
        typer.Option(help="median: the median share / the class's; log: 1 / ln(1.02 + share)."),
    ] = "median",
    limit: Annotated[int | None, typer.Option(min=1, help="Count only that many images.")] = None,
) -> None:
    """Weights for rare classes, as lines for a recipe.

    Counted from the labels.
    """
    from hfgd.data.open import open_dataset
    from hfgd.data.statistics import class_shares, class_weights
    from hfgd.progress import Progress

    dataset = open_dataset(data, split, data_yaml)
    with Progress("counting", min(limit or len(dataset), len(dataset))) as progress:
        pixels, read = class_shares(dataset, limit or len(dataset), progress.update)
    weights = class_weights(pixels[:-1], method)
    print(f"# {method}, {read} of {len(dataset)} images of {dataset.title}")
    print("# put the recipe above these lines, for example:  base: hfgd_resnet50")
    print("loss:\n  class_weights:")
    for name, weight in zip(dataset.classes.names, weights, strict=True):
        print(f"    - {weight}  # {name}")


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="pascal_context or coco_stuff10k.")],
    source: Annotated[Path, typer.Option("--from", help="The folder of the unpacked downloads.")],
    out: Annotated[Path, typer.Option(help="The data folder to write; may be half done.")],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; one for each core by default.")
    ] = None,
) -> None:
    """Make a data folder where labels are no images yet.

    Can be repeated and resumed.
    """
    from hfgd.data.importing.prepare import prepare as run
    from hfgd.data.known import KNOWN
    from hfgd.progress import Progress

    with Progress("preparing", 1) as progress:

        def tell(done: int, total: int) -> None:
            progress.total = total
            progress.update(done)

        counts = run(name, source, out, workers, tell)
    for split, count in counts.items():
        print(f"{split}: {counted(count, 'pair')}, expected {KNOWN[name].expected[split]:,}")
    print(f"next: hfgd data check {out}")


def _show_data(
    data: str, split: str, limit: int, out: Path, expected: "Mapping[str, int] | None" = None
) -> None:
    """Pairs of each split, class shares of one, and its samples as a picture."""
    from hfgd.data.open import SCENES, open_dataset, open_files
    from hfgd.data.statistics import class_shares, sample_sheet

    if data != SCENES:
        files = open_files(data)
        for each in files.splits():
            images, labels = files.files(each)
            pairs = len(images.keys() & labels.keys())
            stated = f", expected {expected.get(each, 0):,}" if expected is not None else ""
            print(f"{each}: {counted(pairs, 'pair')}{stated}")
    dataset = open_dataset(data, split)
    pixels, read = class_shares(dataset, limit)
    print(f"\nclass shares, {read} of {len(dataset)} images of {split}")
    table = Table("class")
    table.add_column("% of pixels", justify="right")
    for label, count in zip([*dataset.classes.names, "(ignored)"], pixels, strict=True):
        table.add_row(label, f"{100 * count / max(1, pixels.sum()):.3f}")
    show(table)
    sample_sheet(dataset, out)
    print(f"samples: {out}")


def _print(report: "CheckReport") -> None:
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    for split in report.splits:
        sizes = ", ".join(f"{h}×{w} ({n})" for (h, w), n in split.sizes.most_common(3))
        more = f" and {len(split.sizes) - 3} other sizes" if len(split.sizes) > 3 else ""
        name = escape(f"{report.root.name}/{split.split}")
        console.print(f"\n[bold]{name}[/bold]: {counted(split.pairs, 'pair')}; {sizes}{more}")
        _print_shares(report, split)
        _print_lines(console, "problem", split.problems, "red")
        _print_lines(console, "note", split.remarks, "yellow")
    problems = sum(len(split.problems) for split in report.splits)
    good = "good: nothing here would break a training run."
    console.print(
        f"\n{good}" if report.ok else f"\n{problems} problems would break a training run."
    )


def _print_shares(report: "CheckReport", split: "SplitReport") -> None:
    total = max(1, int(split.pixels.sum()))
    table = Table("class")
    table.add_column("% of pixels", justify="right")
    table.add_column("images", justify="right")
    rows = zip([*report.classes.names, "(ignored)"], split.pixels, strict=True)
    for i, (name, pixels) in enumerate(rows):
        images = str(split.images_with_class[i]) if i < len(report.classes) else ""
        table.add_row(name, f"{100 * pixels / total:.3f}", images)
    show(table)


def _print_lines(console: Console, kind: str, lines: list[str], style: str) -> None:
    from hfgd.data.check import SHOWN

    for line in lines[:SHOWN]:
        console.print(f"[{style}]{kind}[/{style}] ", end="")
        console.print(line, markup=False)
    if len(lines) > SHOWN:
        console.print(f"… and {len(lines) - SHOWN} more of these")
