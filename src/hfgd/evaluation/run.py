"""``hfgd eval``: from a model and a data set to a report with pictures."""

from pathlib import Path

import torch

from hfgd.checkpoint import load_model, model_folder, read_recipe
from hfgd.data.open import open_dataset
from hfgd.errors import HfgdError
from hfgd.evaluation.evaluate import check_classes, evaluate
from hfgd.evaluation.pictures import draw_scores, predict_panels
from hfgd.evaluation.report import Report
from hfgd.model.segmenter import Branch
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
) -> tuple[Report, Path]:
    """Score the model at ``path``; returns the report and the folder it was written to."""
    model = load_model(path, pick_device(device))
    dataset = open_dataset(data, split, data_yaml)
    check_classes(model, dataset)
    name = read_recipe(path).name
    with Progress("scoring", len(dataset)) as progress:
        scores = evaluate(model, dataset, workers, lambda done, _: progress.update(done), branch)
    facts = {"checkpoint": str(model_folder(path))}
    report = Report(name, dataset.title, len(dataset), scores, branch, facts=facts)
    folder = out or Path(path) / f"eval-{dataset.title.replace('/', '-')}"
    report.save(folder)
    draw_scores(scores, folder)
    predict_panels({name: model}, dataset, PANELS, folder / "panels.png")
    return report, folder
