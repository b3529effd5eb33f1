"""``hfgd eval``: from a model and a data set to a report with pictures."""

from collections.abc import Sequence
from pathlib import Path

import torch

from hfgd.checkpoint import load_model, model_folder, read_recipe
from hfgd.data.classes import ClassSet
from hfgd.data.open import open_dataset
from hfgd.errors import HfgdError, unknown
from hfgd.evaluation.boundary import WIDTH
from hfgd.evaluation.evaluate import check_classes, evaluate
from hfgd.evaluation.pictures import draw_scores, predict_panels, worst_panels
from hfgd.evaluation.protocol import find_protocol
from hfgd.evaluation.report import Report
from hfgd.model.segmenter import Branch
from hfgd.processes import is_main, joining
from hfgd.progress import Progress

PANELS = 4


def pick_device(name: str | None) -> str:
    """The device asked for, or the GPU where there is one; raises HfgdError for an unusable one."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise HfgdError(f"device '{name}' cannot be used here; try --device cpu.") from error
    return name


def evaluate_model(
    path: str,
    data: str,
    split: str = "val",
    data_yaml: Path | None = None,
    out: Path | None = None,
    workers: int = 2,
    device: str | None = None,
    branch: Branch = "fine",
    protocol: str = "ss",
    boundary: float | None = WIDTH,
    groups: Sequence[str] = (),
    limit: int | None = None,
) -> tuple[Report, Path]:
    """Score the model at ``path``; returns the report and the folder it was written to.

    Started as one of several processes it scores its share of the images, and the main one writes.
    """
    with joining(pick_device(device)) as place:
        model = load_model(path, place)
        dataset = open_dataset(data, split, data_yaml, limit)
        check_classes(model, dataset)
        recipe = read_recipe(path)
        chosen, name = find_protocol(protocol, recipe.augment.crop), recipe.name
        grouped = parse_groups(groups, dataset.classes)
        with Progress("scoring", len(dataset)) as progress:

            def tell(done: int, share: int) -> None:
                progress.total = share  # this process's images
                progress.update(done)

            scores = evaluate(
                model,
                dataset,
                chosen,
                branch=branch,
                boundary=boundary,
                workers=workers,
                progress=tell,
            )
    facts = {"checkpoint": str(model_folder(path))}
    report = Report(name, dataset.title, len(dataset), scores, branch, chosen, facts, grouped)
    folder = out or Path(path) / f"eval-{dataset.title.replace('/', '-')}-{chosen.name}"
    if is_main():
        report.save(folder)
        draw_scores(scores, folder)
        predict_panels({name: model}, dataset, PANELS, folder / "panels.png", chosen, branch)
        worst_panels(model, dataset, scores, folder / "worst.png", chosen, branch)
    return report, folder


def parse_groups(groups: Sequence[str], classes: ClassSet) -> dict[str, list[str]]:
    """``name=class,class`` strings → classes that are scored as one."""
    parsed = {}
    for group in groups:
        name, separator, members = group.partition("=")
        if not separator or not members:
            raise HfgdError(f"--group takes name=class,class, not '{group}'.")
        parsed[name] = [member.strip() for member in members.split(",")]
        for member in parsed[name]:
            if member not in classes.names:
                raise HfgdError(f"--group {name}: {unknown('class', member, classes.names)}")
    return parsed
