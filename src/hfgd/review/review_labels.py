"""``hfgd review RUN --data D``: every label of a data set, the doubtful ones first."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hfgd.data.loader import EvalBatches
from hfgd.evaluation.scoring import check_classes
from hfgd.files import write_text
from hfgd.inference.labeller import InferenceConfig, Labeller, open_labeller, origin
from hfgd.inference.temperature import read_temperature
from hfgd.progress import Progress, say
from hfgd.review.jsonl import JsonRows, Ranked, Row, claim
from hfgd.review.lists import Judged, table, write_lists
from hfgd.review.pool import Chosen, ReviewSet, deal, fold_recipe, train_fold
from hfgd.review.quality import Found, QualityTerms, judge

TOP = 100  # images that are shown and handed back
PLAIN = QualityTerms()


@dataclass(frozen=True)
class Task:
    """What is reviewed, and how: what the command line may say.

    ``folds``: judge each image by a network that was trained on other folds. ``groups``: a regular
    expression or a csv whose groups stay in one fold. ``settings``: changes to the recipe of the
    folds. ``top``: images that are shown and handed back.
    """

    data: str
    splits: Sequence[str] = ()
    data_yaml: Path | None = None
    folds: int | None = None
    groups: str | None = None
    settings: dict[str, Any] | None = None
    terms: QualityTerms = PLAIN
    top: int = TOP
    workers: int = 2


@dataclass(frozen=True)
class Review:
    """The images in their order, doubtful labels first; ``models``: who judged, by fold."""

    judged: Ranked[Judged]
    pool: ReviewSet
    models: list[str]
    terms: QualityTerms
    note: str | None = None  # why a list is not written


def review_labels(run: str, task: Task, how: InferenceConfig, out: Path) -> Review:
    """Judge all labels and write review.csv and lists/; what an earlier call judged is kept.

    Raises HfgdError for other classes, and where ``out`` holds a review of another kind.
    """
    pool = ReviewSet.open(task.data, task.splits, task.data_yaml)
    labeller = open_labeller(run, how)
    check_classes(labeller.classes, pool)
    names = [key.split("/", 1)[1] for key in pool.keys]
    fold_of = None if task.folds is None else deal(names, task.folds, task.groups)
    recipe = None if task.folds is None else fold_recipe(run, task.settings or {})
    terms = replace(task.terms, temperature=read_temperature(run, labeller))
    claim(out, _settings(run, labeller, pool, replace(task, terms=terms)))
    rows = JsonRows(out / "labels.jsonl")
    models = [run]
    if fold_of is None or recipe is None:
        if "train" in pool.parts:
            say("judged by a model that saw these labels in training, and forgives them; --folds 5")
        _judge(labeller, pool, range(len(pool)), None, terms, rows, task.workers)
    else:
        # all networks first: what is wrong with training shows before hours of judging
        folds = range(max(fold_of) + 1)
        models = [str(train_fold(recipe, pool, fold_of, fold, out, how.code)) for fold in folds]
        for fold, model in enumerate(models):
            places = [i for i, f in enumerate(fold_of) if f == fold]
            if any(pool.keys[i] not in rows.done for i in places):
                trained = open_labeller(model, how)
                _judge(trained, pool, places, fold, terms, rows, task.workers)
    judged = Ranked(rows, _doubt, _judged)
    write_text(out / "review.csv", table(judged))
    note = write_lists(judged.first(task.top), pool.classes, out / "lists", pool.merged)
    return Review(judged, pool, models, terms, note)


def _settings(run: str, labeller: Labeller, pool: ReviewSet, task: Task) -> Row:
    """What decides the results: a call with others does not go on with them."""
    weights = origin(run).weights
    return {
        "model": str(weights.resolve()),
        "written": weights.stat().st_mtime_ns,
        "protocol": labeller.protocol.model_dump(mode="json"),
        "precision": labeller.precision,
        "data": pool.title,
        "images": len(pool),
        "folds": task.folds,
        "groups": task.groups,
        "settings": task.settings or {},
        **asdict(task.terms),
    }


def _judge(
    labeller: Labeller,
    pool: ReviewSet,
    places: Sequence[int],
    fold: int | None,
    terms: QualityTerms,
    rows: JsonRows,
    workers: int,
) -> None:
    """Judge the images at these places that have no row yet."""
    missing = [i for i in places if pool.keys[i] not in rows.done]
    batches = EvalBatches(Chosen(pool, missing, pool.title), workers)
    title = "judging labels" if fold is None else f"judging fold {fold + 1}"
    done = len(places) - len(missing)
    with batches, Progress(title, len(places), done) as progress:
        for place, (image, label, _) in zip(missing, batches, strict=True):
            found = judge(labeller, image, label, terms)
            head = {"key": pool.keys[place], "file": pool.file(place), "fold": fold}
            rows.add({**head, "size": list(label.shape), **found.as_dict()})
            done += 1
            progress.update(done)


def _judged(row: Row) -> Judged:
    size = (row["size"][0], row["size"][1])
    return Judged(row["key"], row["file"], size, row["fold"], Found.of(row))


def _doubt(row: Row) -> tuple[float, str]:
    """Doubtful labels first; images without labels last."""
    quality = row["quality"]
    return math.inf if quality is None else quality, row["key"]
