"""``fit``: one training run from a recipe to a run folder with a scored, shown model."""

import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from hfgd.data.dataset import SegDataset
from hfgd.data.loader import TrainBatches, TrainStream
from hfgd.data.open import open_dataset
from hfgd.data.transforms import Augment
from hfgd.errors import HfgdError, TrainingStopped
from hfgd.evaluation.evaluate import evaluate
from hfgd.evaluation.pictures import draw_scores, predict_panels
from hfgd.evaluation.plots import curves
from hfgd.evaluation.report import Report
from hfgd.evaluation.scores import Scores
from hfgd.model.build import build
from hfgd.model.segmenter import Segmenter
from hfgd.progress import Progress, format_duration
from hfgd.recipes.spec import Recipe
from hfgd.training.callbacks import Checkpoints, Logs, Stop, Validation
from hfgd.training.module import LitSegmenter, NonFiniteLossError
from hfgd.training.run_folder import RunFolder


class Interrupted(TrainingStopped):
    """Stopped by Ctrl-C with everything saved."""

    exit_code = 130


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, the last model and its scores on the validation split."""

    folder: RunFolder
    model: Segmenter
    report: Report


def fit(recipe: Recipe | None, out: Path, resume: bool = False) -> Run:
    """Train, validate, score and draw; everything lands in ``out``.

    ``resume`` goes on with the run in ``out`` and needs no recipe. Raises HfgdError for bad input,
    TrainingStopped where the run cannot go on, Interrupted for Ctrl-C; what was saved stays good.
    """
    folder = RunFolder(out)
    if resume:
        recipe = folder.resume(recipe)
    if recipe is None:
        raise HfgdError("a new run needs a recipe; 'hfgd recipes' lists the named ones.")
    train_set, val_set = _open(recipe)
    start = _iteration(folder.state) if resume else 0
    torch.manual_seed(recipe.train.seed)
    # a run that goes on has its weights in its state: nothing is fetched or read a second time
    spec = recipe.model.with_backbone(pretrained=False) if start else recipe.model
    network = build(spec, train_set.classes)
    if recipe.train.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if not resume:
        folder.start(recipe)
    began = time.monotonic()
    network, latest = _train(network, recipe, folder, train_set, val_set, start)
    scores = latest or evaluate(
        network, val_set, branch=recipe.branch, workers=recipe.train.workers
    )
    facts = {
        "checkpoint": f"last, after {recipe.train.iterations} iterations",
        "precision": recipe.train.precision,
        "training time": f"{format_duration(time.monotonic() - began)}"
        + (f" (since iteration {start})" if start else ""),
    }
    report = Report(recipe.name, val_set.title, len(val_set), scores, recipe.branch, facts=facts)
    report.save(out)
    draw_scores(scores, out)
    curves(folder.train_csv, folder.val_csv, out / "curves.png")
    predict_panels({recipe.name: network}, val_set, recipe.train.panels, out / "panels.png")
    return Run(folder, network, report)


def _open(recipe: Recipe) -> tuple[SegDataset, SegDataset]:
    data = recipe.data
    if data.location is None:
        raise HfgdError(
            f"recipe '{recipe.name}' needs data: give --data FOLDER, or --data scenes for the "
            "embedded data set."
        )
    train_set = open_dataset(data.location, data.train_split, data.data_yaml, data.limit)
    val_set = open_dataset(data.location, data.val_split, data.data_yaml, data.limit)
    return train_set, val_set


def _train(
    network: Segmenter,
    recipe: Recipe,
    folder: RunFolder,
    train_set: SegDataset,
    val_set: SegDataset,
    start: int,
) -> tuple[Segmenter, Scores | None]:
    """The trained network on the device it was trained on, and its scores if just taken."""
    settings = recipe.train
    augment = Augment(recipe.augment, network.backbone.mean, network.backbone.grid)
    stream = TrainStream(train_set, augment, settings.seed)
    batches = TrainBatches(stream, settings.batch_size, start, settings.workers, rank=0, world=1)
    _quieten()
    stop = Stop()
    module = LitSegmenter(network, recipe)
    with Progress("training", settings.iterations, start) as progress, stop.listening():
        logs = Logs(folder, recipe, start, progress)
        validation = Validation(folder, recipe, val_set, start, logs)
        checkpoints = Checkpoints(folder, recipe, validation, stop)
        trainer = L.Trainer(
            accelerator="auto",
            devices=1,
            precision=settings.precision,
            max_steps=settings.iterations,
            max_epochs=-1,
            logger=TensorBoardLogger(folder.logs, name="", version="tensorboard"),
            callbacks=[logs, validation, checkpoints],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            use_distributed_sampler=False,
        )
        state = str(folder.state) if start else None
        try:
            trainer.fit(module, batches, ckpt_path=state, weights_only=True)
        except NonFiniteLossError as error:
            raise TrainingStopped(f"{error}; {_last_good(folder)}") from error
    if trainer.global_step < settings.iterations:
        raise Interrupted(
            f"stopped at iteration {trainer.global_step} of {settings.iterations}, all is saved; "
            f"go on with: hfgd train --resume --out {folder.root}"
        )
    fresh = validation.latest_iteration == settings.iterations
    return module.network, validation.latest if fresh else None


def _last_good(folder: RunFolder) -> str:
    if not folder.state.is_file():
        return "no checkpoint had been written yet; a smaller optim.lr is the usual remedy."
    return (
        f"the last good checkpoint is {folder.state} (iteration {_iteration(folder.state)}); "
        "a smaller optim.lr is the usual remedy."
    )


def _iteration(state: Path) -> int:
    """The iteration a saved state belongs to; 0 where there is none yet."""
    if not state.is_file():
        return 0
    try:
        content = torch.load(state, map_location="cpu", weights_only=True, mmap=True)
        return int(content["global_step"])
    except Exception as error:  # torch raises many kinds for a damaged file
        raise HfgdError(
            f"'{state}' is damaged and cannot be resumed from ({type(error).__name__}); "
            "start a new run, or fine-tune from the model in last/."
        ) from error


def _quieten() -> None:
    """Lightning's own chatter says nothing that our lines do not."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for pattern in (".*does not have many workers.*", ".*weights_only.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", pattern)
