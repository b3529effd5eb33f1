"""``fit``: one training run from a recipe to a run folder with a scored, shown model."""

import logging
import os
import signal
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy

from hfgd.data.dataset import SegDataset
from hfgd.data.loader import TrainBatches, TrainStream
from hfgd.data.open import open_dataset
from hfgd.data.transforms import Augment
from hfgd.errors import HfgdError
from hfgd.evaluation.evaluate import evaluate
from hfgd.evaluation.pictures import draw_scores, predict_panels
from hfgd.evaluation.plots import curves
from hfgd.evaluation.report import Report
from hfgd.evaluation.scores import Scores
from hfgd.losses import check_class_weights
from hfgd.model.build import build
from hfgd.model.segmenter import Segmenter
from hfgd.processes import is_main, launched
from hfgd.progress import Progress, format_duration
from hfgd.recipes.spec import Recipe, TrainSpec
from hfgd.training.callbacks import Average, Checkpoints, Logs, Validation
from hfgd.training.failures import explained, read_iteration
from hfgd.training.finetune import start_from
from hfgd.training.module import LitSegmenter, with_synchronised_norms
from hfgd.training.profile import Profile
from hfgd.training.run_folder import RunFolder
from hfgd.training.stop import Interrupted, Stop, Terminated


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, the last model and its scores on the validation split."""

    folder: RunFolder
    model: Segmenter
    report: Report


def fit(recipe: Recipe | None, out: Path, resume: bool = False, profile: bool = False) -> Run:
    """Train, validate, score and draw; everything lands in ``out``.

    ``resume`` goes on with the run in ``out`` and needs no recipe. ``profile``: see Profile. Started as
    one of several processes it trains together with them, and the main one writes. Raises HfgdError
    for bad input, TrainingStopped where the run cannot go on, Interrupted and Terminated for Ctrl-C
    and SIGTERM; what was saved stays good.
    """
    folder = RunFolder(out)
    if resume:
        recipe = folder.resume(recipe)
    if recipe is None:
        raise HfgdError("a new run needs a recipe; 'hfgd recipes' lists the named ones.")
    train_set, val_set = _open(recipe)
    check_class_weights(recipe.loss, len(train_set.classes))
    start = read_iteration(folder.state) if resume else 0
    torch.manual_seed(recipe.train.seed)
    # weights that will be replaced are not fetched: a run that goes on has its own in its state
    replaced = start > 0 or recipe.train.init is not None
    spec = recipe.model.with_backbone(pretrained=False) if replaced else recipe.model
    network = build(spec, train_set.classes)
    if recipe.train.init is not None and not start:
        start_from(network, recipe, recipe.train.init)
    began = time.monotonic()
    network, latest = _train(network, recipe, folder, train_set, val_set, start, resume, profile)
    scores = latest or evaluate(
        network, val_set, branch=recipe.branch, workers=recipe.train.workers
    )
    facts = {
        "checkpoint": f"last, after {recipe.train.iterations} iterations",
        "precision": recipe.train.precision,
        "training time": f"{format_duration(time.monotonic() - began)}"
        + (f" (since iteration {start})" if start else ""),
    }
    if launched()[1] > 1:
        facts["processes"] = str(launched()[1])
    report = Report(recipe.name, val_set.title, len(val_set), scores, recipe.branch, facts=facts)
    if not is_main():
        return Run(folder, network, report)
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
    resume: bool,
    profile: bool,
) -> tuple[Segmenter, Scores | None]:
    """The trained network, or the average of its weights, and its scores if just taken."""
    settings = recipe.train
    rank, world = launched()
    share = _share(settings, world)
    augment = Augment(recipe.augment, network.backbone.mean, network.backbone.grid)
    stream = TrainStream(train_set, augment, settings.seed)
    first = start * settings.accumulate
    batches = TrainBatches(stream, share, first, settings.workers, rank, world)
    _quieten()
    stop = Stop()
    if world > 1 and torch.cuda.is_available():
        network = with_synchronised_norms(network)
    module = LitSegmenter(network, recipe)
    average = None if settings.ema is None else Average(network, settings.ema, start)
    answer = network if average is None else average.network
    loggers = _loggers(settings, recipe.name, folder) if is_main() else []
    if not resume:  # a mistake in the recipe that shows above leaves no folder behind
        folder.start(recipe)
    with Progress("training", settings.iterations, start) as progress, stop.listening():
        logs = Logs(folder, recipe, start, progress)
        validation = Validation(folder, recipe, val_set, start, answer, logs)
        checkpoints = Checkpoints(folder, recipe, start, validation, stop)
        callbacks = [stop, *([average] if average else []), logs, validation, checkpoints]
        if profile and is_main():
            callbacks.insert(0, Profile(folder.root))
        trainer = L.Trainer(
            **_engine(settings, world),
            gradient_clip_val=recipe.optim.clip_norm,
            max_steps=settings.iterations,
            max_epochs=-1,
            logger=loggers or False,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            use_distributed_sampler=False,
        )
        state = str(folder.state) if start else None
        with explained(folder):
            trainer.fit(module, batches, ckpt_path=state, weights_only=True)
    if trainer.global_step < settings.iterations:
        kind = Terminated if stop.requested == signal.SIGTERM else Interrupted
        raise kind(
            f"stopped at iteration {trainer.global_step} of {settings.iterations}, all is saved; "
            f"go on with: hfgd train --resume --out {folder.root}"
        )
    fresh = validation.latest_iteration == settings.iterations
    return answer, validation.latest if fresh else None


def _share(settings: TrainSpec, world: int) -> int:
    """Images that one process passes at once."""
    parts = world * settings.accumulate
    share, rest = divmod(settings.batch_size, parts)
    if rest:
        raise HfgdError(
            f"train.batch_size {settings.batch_size} is the batch over all processes and cannot be "
            f"split over {world} processes with train.accumulate {settings.accumulate}; "
            f"choose a multiple of {parts}."
        )
    return share


def _engine(settings: TrainSpec, world: int) -> dict[str, Any]:
    """What Lightning is told of machine, precision and processes."""
    engine: dict[str, Any] = {
        "accelerator": "auto",
        "devices": 1,
        "precision": settings.precision,
        "accumulate_grad_batches": settings.accumulate,
        "deterministic": settings.deterministic,
    }
    if world > 1:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        engine |= {
            "devices": local,
            "num_nodes": world // local,
            # every parameter of every composition takes part in every loss
            "strategy": DDPStrategy(
                cluster_environment=TorchElasticEnvironment(), gradient_as_bucket_view=True
            ),
        }
    return engine


def _loggers(settings: TrainSpec, name: str, folder: RunFolder) -> list[Logger]:
    loggers: list[Logger] = []
    if "tensorboard" in settings.loggers:
        loggers.append(TensorBoardLogger(folder.logs, name="", version="tensorboard"))
    if "wandb" in settings.loggers:
        try:
            loggers.append(WandbLogger(name=name, project="hfgd", save_dir=folder.logs))
        except ModuleNotFoundError as error:
            raise HfgdError(
                "train.loggers names wandb, which is not installed: pip install wandb, or leave it out."
            ) from error
    return loggers


def _quieten() -> None:
    """Lightning's own chatter says nothing that our lines do not."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (".*does not have many workers.*", ".*weights_only.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", pattern)
