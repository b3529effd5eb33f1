"""``hfgd eval``: from a model and a data set to a report with pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hfgd.data.classes import ClassSet
from hfgd.data.dataset import SegDataset
from hfgd.data.open import open_dataset
from hfgd.errors import HfgdError, unknown
from hfgd.evaluation.page.gallery import GALLERY, Shown
from hfgd.evaluation.page.report_page import report_page, run_folder_of
from hfgd.evaluation.page.thumbnails import Thumbnails, pictures_in
from hfgd.evaluation.plots import draw_scores, label_panels, worst_panels
from hfgd.evaluation.report import Report
from hfgd.evaluation.scores import WIDTH, Scores
from hfgd.evaluation.scoring import check_classes, evaluate
from hfgd.hub import folder_for
from hfgd.inference.labeller import InferenceConfig, Labeller, open_labeller, origin
from hfgd.inference.temperature import Histograms, TemperatureFit, save_temperature
from hfgd.parallel.device import pick_device
from hfgd.parallel.launch import is_main
from hfgd.parallel.processes import everywhere, joining
from hfgd.progress import Progress
from hfgd.recipes.spec import check_recipe, read_recipe_yaml

PANELS = 4


@dataclass(frozen=True)
class EvalConfig:
    """What a model is scored on, and what is counted: what the command line may say.

    ``gallery``: images in report.html at most; 0 leaves them out.
    ``boundary``: width of boundary IoU as a share of the image diagonal; None leaves it out.
    ``groups``: ``name=class,class`` strings, classes that are also scored as one. ``calibrate``: fit
    the temperature of the model's confidence on these images, and keep it beside the model.
    """

    data: str
    split: str = "val"
    data_yaml: Path | None = None
    limit: int | None = None
    workers: int = 2
    boundary: float | None = WIDTH
    groups: Sequence[str] = ()
    gallery: int = GALLERY
    calibrate: bool = False

    def dataset(self) -> SegDataset:
        """The images and labels."""
        return open_dataset(self.data, self.split, self.data_yaml, self.limit)


def what_to_score(
    model: str,
    data: str | None,
    split: str | None = None,
    data_yaml: Path | None = None,
    limit: int | None = None,
    verb: str = "eval",
) -> EvalConfig:
    """The images that were asked for; without ``data`` those that the run was validated on, as its
    recipe says. Raises HfgdError, naming the ``verb``, where there is no such recipe."""
    if data is not None:
        return EvalConfig(data, split or "val", data_yaml, limit)
    for folder in (Path(model), Path(model).parent):
        if (folder / "recipe.yaml").is_file():
            stored = check_recipe(read_recipe_yaml(folder / "recipe.yaml"), str(folder)).data
            if stored.location is not None:
                yaml = data_yaml or stored.data_yaml
                return EvalConfig(stored.location, split or stored.val_split, yaml, limit)
    origin(model)  # where there is none, that is what to say
    raise HfgdError(f"{verb} needs --data: '{model}' does not say what it was trained on.")


def evaluate_model(
    path: str,
    what: EvalConfig,
    how: InferenceConfig,
    out: Path | None = None,
    engine: Callable[[str, EvalConfig, InferenceConfig], Scores] | None = None,
) -> tuple[Report, Path]:
    """Score the model at ``path``; returns the report and the folder it was written to.

    Started as one of several processes it scores its share of the images, and the main one writes.
    ``engine``: counts the pixels somewhere else; the pictures are made here.
    """
    if engine is not None and what.calibrate:
        raise HfgdError("--calibrate looks at scores in this process; leave --engine out.")
    source = origin(path)
    with joining(pick_device(how.device)) as place:
        labeller = open_labeller(path, how.on(place))
        dataset = what.dataset()
        check_classes(labeller.classes, dataset)
        groups = parse_groups(what.groups, dataset.classes)
        folder = out or _folder(source.place, folder_for(path), dataset, labeller)
        counts = Histograms() if what.calibrate else None
        folder.mkdir(parents=True, exist_ok=True)  # where it cannot be, nothing is scored in vain
        with pictures_in(folder) as pictures:
            if engine is None:
                scores = scored(labeller, dataset, what, "scoring", pictures, confidence=counts)
            else:
                scores = engine(path, what, how)
            fitted = None if counts is None else _fitted(counts)
            name, facts = source.name, {"checkpoint": str(source.place)}
            report = Report(
                name, dataset.title, len(dataset), scores, labeller.branch, labeller.protocol,
                facts | {"precision": labeller.precision}, groups, fitted,
            )  # fmt: skip
            if is_main():
                report.save(folder)
                shown = Shown({name: scores}, dataset, pictures, 0 if engine else what.gallery)
                report_page(report, shown, folder, run_folder_of(source.place))
    if is_main():
        if fitted is not None:
            save_temperature(path, labeller, fitted, dataset.title)
        draw_scores(scores, folder)
        label_panels({name: labeller}, dataset, PANELS, folder / "panels.png")
        worst_panels(labeller, dataset, scores, folder / "worst.png")
    return report, folder


def _fitted(mine: Histograms) -> TemperatureFit:
    """The temperature, from the counts of all processes."""
    return sum(everywhere(mine), start=Histograms()).fitted()


def _folder(place: Path, path: Path, dataset: SegDataset, labeller: Labeller) -> Path:
    """Where a report goes that is told no place: beside the model."""
    shown = f"eval-{dataset.title}-{labeller.protocol.name}".replace("/", "-")
    return place.with_suffix("") / shown if place.is_file() else path / shown


def scored(
    labeller: Labeller,
    dataset: SegDataset,
    what: EvalConfig,
    title: str,
    folder: Path | None = None,
    model: int = 0,
    confidence: Histograms | None = None,
) -> Scores:
    """The scores of a data set, with progress. Pictures for a gallery go into ``folder``, those of
    the first ``model`` with the photographs, unless there are too many. ``confidence``: see
    ``evaluate``.
    """
    photos = model == 0 and len(dataset) <= what.gallery
    thumbnails = Thumbnails(folder, model, photos) if folder and what.gallery else None
    with Progress(title, len(dataset)) as progress:

        def tell(done: int, share: int) -> None:
            progress.total = share  # this process's images
            progress.update(done)

        return evaluate(
            labeller,
            dataset,
            boundary=what.boundary,
            workers=what.workers,
            progress=tell,
            thumbnails=thumbnails,
            confidence=confidence,
        )


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
