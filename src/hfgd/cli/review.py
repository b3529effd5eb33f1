"""``hfgd review``: labels that look wrong, and images to label next."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from hfgd.cli.options import Code
from hfgd.errors import HfgdError
from hfgd.text import counted

SHOWN = 5


def review(
    run: Annotated[
        str, typer.Argument(help="A run folder (its last model), a model folder, a .onnx file.")
    ],
    out: Annotated[Path, typer.Option(help="Where table, gallery and lists go.")],
    data: Annotated[
        str | None, typer.Option(help="Whose labels to review: a data folder, or 'scenes'.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split; repeatable; train and val otherwise.")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Judge by networks that were trained on the other folds."),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(help="A regular expression or a csv: what it groups stays in one fold."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one key of the folds' recipe; repeatable."),
    ] = None,
    sure: Annotated[
        float, typer.Option(min=0, max=1, help="The model counts as sure from this probability on.")
    ] = 0.9,
    min_region: Annotated[
        float, typer.Option(min=0, max=1, help="Smallest region, as a share of the image.")
    ] = 0.0005,
    top: Annotated[int, typer.Option(min=1, help="Images in the gallery and the lists.")] = 100,
    unlabelled: Annotated[
        Path | None, typer.Option(help="Instead: choose from this folder what to label next.")
    ] = None,
    next_: Annotated[int, typer.Option("--next", min=1, help="How many images to choose.")] = 100,
    by: Annotated[
        Literal["entropy", "margin", "diverse", "random"],
        typer.Option(help="What the choice is made by."),
    ] = "entropy",
    data_yaml: Annotated[
        Path | None, typer.Option(help="A data.yaml that does not lie in the data folder.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="ss, mf, slide, or a YAML file.")] = "ss",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 2,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; the GPU where there is one.")
    ] = None,
    code: Code = None,
) -> None:
    """Find labels that look wrong, or images worth labelling next.

    The first with --data, the second with --unlabelled.
    """
    from hfgd.inference.labeller import InferenceConfig
    from hfgd.recipes import parse_overrides
    from hfgd.review.gallery import review_page
    from hfgd.review.quality import QualityTerms
    from hfgd.review.review_labels import Task, review_labels

    how = InferenceConfig(protocol, None, device, code=code)
    splits, changes = tuple(split or ()), parse_overrides(settings or [])
    if unlabelled is not None:
        _choose(run, unlabelled, next_, by, how, out, data, splits, data_yaml)
        return
    if data is None:
        raise HfgdError("review needs --data, whose labels it reviews, or --unlabelled FOLDER.")
    if folds is None and (groups is not None or changes):
        raise HfgdError("--groups and --set are about the folds; give --folds too, e.g. --folds 5.")
    terms = QualityTerms(sure, min_region)
    task = Task(data, splits, data_yaml, folds, groups, changes, terms, top, workers)
    found = review_labels(run, task, how, out)
    page = review_page(found, how, top, out)
    for one in found.judged.first(SHOWN):
        quality = "no label" if one.found.quality is None else f"{one.found.quality:.4f}"
        parts = ", ".join(f"{r.labelled} → {r.suggested}" for r in one.found.regions[:3])
        print(f"{quality}  {one.key}  {parts}")
    count = sum(bool(one.found.regions) for one in found.judged)
    print(
        f"{counted(len(found.judged), 'label')} judged, {count} with regions that look mislabelled"
    )
    lists = "coco.json" if found.note else "coco.json, cvat.xml, labelstudio.json"
    print(f"written: {page}, review.csv, lists/ ({lists})")
    if found.note:
        print(found.note)


def _choose(
    run: str,
    folder: Path,
    count: int,
    by: Literal["entropy", "margin", "diverse", "random"],
    how: object,
    out: Path,
    data: str | None,
    splits: tuple[str, ...],
    data_yaml: Path | None,
) -> None:
    from hfgd.inference.labeller import InferenceConfig
    from hfgd.review.gallery import Picked, next_page
    from hfgd.review.pool import ReviewSet
    from hfgd.review.select import choose_next

    assert isinstance(how, InferenceConfig)
    if data is not None and by != "diverse":
        raise HfgdError(
            f"--data beside --unlabelled says what is labelled already, which --by {by} does not "
            "look at; leave it out, or choose --by diverse."
        )
    labelled = None if data is None else ReviewSet.open(data, splits, data_yaml)
    choice = choose_next(run, folder, count, by, how, out, labelled)
    names = [path.relative_to(folder).as_posix() for path in choice.files]
    picked = list(map(Picked, choice.files, names, choice.scores))
    page = next_page(picked, by, run, how, out)
    print(f"{counted(len(picked), 'image')} chosen by {by}: {page}, next.txt, next.csv, lists/")
    if choice.failed:
        print(f"{len(choice.failed)} could not be read:", file=sys.stderr)
        for reason in choice.failed:
            print(f"  {reason}", file=sys.stderr)
        raise typer.Exit(1)
