"""``fit``: one training run from a recipe to a run folder with a scored, shown model."""

import logging
import signal
import sys
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy

from hfgd.checkpoint import is_by_hand
from hfgd.data.dataset import SegDataset, sample_of
from hfgd.data.findings import refuse_one_class
from hfgd.data.loader import (
    Counts,
    EvalBatches,
    TrainBatches,
    TrainStream,
    class_counts,
    count_workers,
    needs_counts,
    read_counts,
    write_counts,
)
from hfgd.data.open import open_dataset
from hfgd.data.transforms.pipeline import Augment
from hfgd.errors import HfgdError
from hfgd.evaluation.page.gallery import GALLERY, Shown
from hfgd.evaluation.page.report_page import report_page
from hfgd.evaluation.page.thumbnails import Thumbnails, pictures_in
from hfgd.evaluation.plots import curves, draw_scores, label_panels
from hfgd.evaluation.report import Report
from hfgd.evaluation.scores import Scores
from hfgd.evaluation.scoring import evaluate
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.losses.spec import check_class_weights
from hfgd.model.backbones.timm_pyramid import without_weights
from hfgd.model.build import build, find_builder
from hfgd.model.config import ModelConfig
from hfgd.model.network import Network, check_forward
from hfgd.parallel.device import own_gpu, pick_device, use_fast_matmuls
from hfgd.parallel.launch import is_main, launched
from hfgd.progress import Progress, format_duration, say
from hfgd.recipes.spec import Recipe, TrainSpec
from hfgd.training.callbacks import Average, Checkpoints, Logs, Profile, Validation
from hfgd.training.failures import Interrupted, Stop, Terminated, explained, read_iteration
from hfgd.training.finetune import start_from
from hfgd.training.module import LitSegmenter, seen_by_norms, with_synchronised_norms
from hfgd.training.run_folder import RunFolder
from hfgd.types import Precision

PRECISIONS: dict[str, Precision] = {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16"}


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, the last model and its scores on the validation split."""

    folder: RunFolder
    model: Network
    report: Report


def fit(
    recipe: Recipe | None,
    out: Path,
    resume: bool = False,
    profile: bool = False,
    network: Network | None = None,
    data: tuple[SegDataset, SegDataset] | None = None,
    code: Path | None = None,
) -> Run:
    """Train, validate, score and draw; everything lands in ``out``.

    ``resume`` goes on with the run in ``out`` and needs no recipe. ``profile``: see Profile.
    ``network``: one of your own in place of the recipe's ``model``; made by an @hfgd.builder it is
    found again when the run is resumed or loaded. ``data``: what to train and to validate on, in place
    of the recipe's. ``code``: a folder that networks of one's own may be imported from, see
    ``hfgd.code``. Started as one of several processes it trains
    together with them, and the main one writes. Raises HfgdError for bad input, TrainingStopped where
    the run cannot go on, Interrupted and Terminated for Ctrl-C and SIGTERM; what was saved stays good.
    """
    folder = RunFolder(out)
    recipe = _with_builder(recipe, network)
    if resume:
        recipe = folder.resume(recipe)
    if recipe is None:
        raise HfgdError("a new run needs a recipe; 'hfgd recipes' lists the named ones.")
    start = read_iteration(folder.state) if resume else 0
    job = TrainingJob(recipe, folder, *(data or _open(recipe)), start, code)
    network = job.prepare(network)
    began = time.monotonic()
    with pictures_in(out) as pictures:
        network, latest = job.train(network, pictures, new=not resume, profile=profile)
        # the trainer leaves the network on the CPU, whatever it was trained on
        labeller = job.labeller(network.to(job.device))
        scores = latest or evaluate(
            labeller, job.val_set, workers=job.workers, thumbnails=job.thumbnails(pictures)
        )
        report = job.report(scores, time.monotonic() - began)
        if is_main():
            report.save(out)
            shown = Shown({recipe.name: scores}, job.val_set, pictures, GALLERY)
            report_page(report, shown, out, out)
    if is_main():
        draw_scores(scores, out)
        curves(folder.train_csv, folder.val_csv, out / "curves.png")
        label_panels({recipe.name: labeller}, job.val_set, recipe.train.panels, out / "panels.png")
    return Run(folder, network, report)


def _with_builder(recipe: Recipe | None, network: Network | None) -> Recipe | None:
    """The recipe, saying which function makes the network that was given."""
    if recipe is None or network is None or network.config is None:
        return recipe
    if network.config.model is not None:
        return recipe.model_copy(update={"model": network.config.model})
    return recipe.model_copy(update={"network": network.config.builder})


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


@dataclass(frozen=True)
class TrainingJob:
    """One run: what it is, where it goes, its data, and the iteration it goes on from."""

    recipe: Recipe
    folder: RunFolder
    train_set: SegDataset
    val_set: SegDataset
    start: int
    code: Path | None = None

    @property
    def workers(self) -> int:
        """Processes that read images."""
        return count_workers(self.recipe.train.workers)

    @property
    def device(self) -> str:
        """Where this process trains."""
        device = pick_device(None)
        return own_gpu() if device == "cuda" else device

    def prepare(self, network: Network | None) -> Network:
        """The network to train: built from the recipe unless given, checked, initialised."""
        recipe, classes = self.recipe, self.train_set.classes
        check_class_weights(recipe.loss, len(classes))
        torch.manual_seed(recipe.train.seed)
        if network is None and self.start and is_by_hand(self.folder.last):
            raise HfgdError(
                f"the network of '{self.folder.root}' was put together in Python without a builder; "
                "go on with fit(None, out, resume=True, network=...)."
            )
        # weights that will be replaced are not fetched: a run that goes on has its own in its state
        replaced = self.start > 0 or recipe.train.init is not None
        with without_weights() if replaced else nullcontext():
            if network is None and recipe.network is not None:
                make = find_builder(recipe.network.name, self.code)
                network = make(classes, **recipe.network.arguments)
            if network is None:
                network = build(recipe.model, classes)
        if network.classes.names != classes.names:
            raise HfgdError(
                f"the network knows the classes {', '.join(network.classes.names)}, and "
                f"'{self.train_set.title}' has {', '.join(classes.names)}; they must agree."
            )
        check_forward(network)
        for dataset in (self.train_set, self.val_set):
            if len(dataset):
                sample_of(dataset, 0)  # a mistake in all of them shows before anything is written
        if recipe.train.init is not None and not self.start:
            start_from(network, recipe.train.init, self.code)
        told = {"name": recipe.name, "crop": recipe.augment.crop, "branch": recipe.branch}
        config = network.config or ModelConfig.of(network.classes)
        network.config = config.model_copy(update=told)
        return network

    def labeller(self, network: Network) -> NetworkLabeller:
        """The network as this run scores it: its branch, its precision."""
        precision = PRECISIONS[self.recipe.train.precision]
        return NetworkLabeller(network, branch=self.recipe.branch, precision=precision)

    def thumbnails(self, folder: Path) -> Thumbnails:
        """What keeps the pictures of the validation images for the run's page."""
        return Thumbnails(folder, photos=len(self.val_set) <= GALLERY)

    def report(self, scores: Scores, seconds: float) -> Report:
        """The scores of the run's last model, and how it came about."""
        recipe, start = self.recipe, self.start
        facts = {
            "checkpoint": f"last, after {recipe.train.iterations} iterations",
            "precision": recipe.train.precision,
            "training time": f"{format_duration(seconds)}"
            + (f" (since iteration {start})" if start else ""),
        }
        if launched()[1] > 1:
            facts["processes"] = str(launched()[1])
        title, count = self.val_set.title, len(self.val_set)
        return Report(recipe.name, title, count, scores, recipe.branch, facts=facts)

    def train(
        self, network: Network, pictures: Path, new: bool, profile: bool
    ) -> tuple[Network, Scores | None]:
        """The trained network, or the average of its weights, and its scores if just taken; then
        there are ``pictures`` of them too.
        """
        settings, start = self.recipe.train, self.start
        rank, world = launched()
        if new and is_main() and (warning := refuse_one_class(self.train_set)) is not None:
            print(f"warning: {warning}", file=sys.stderr)
        counts = self._class_counts()
        batches = self._batches(network, rank, world, counts)
        _quieten()
        use_fast_matmuls()
        stop = Stop()
        if world > 1 and torch.cuda.is_available():
            network = with_synchronised_norms(network)
        seen = seen_by_norms(network, settings, world)
        if seen is not None:
            say(seen)
        module = LitSegmenter(network, self.recipe)
        average = None if settings.ema is None else Average(network, settings.ema, start)
        answer = network if average is None else average.network
        loggers = _loggers(settings, self.recipe.name, self.folder) if is_main() else []
        if new:  # a mistake in the recipe that shows above leaves no folder behind
            self.folder.start(self.recipe)
        if counts is not None and is_main():
            write_counts(self.folder.counts, counts)
        shown = EvalBatches(self.val_set, self.workers, rank, world, keep=True)

        def score(network: Network, last: bool) -> Scores:
            thumbnails = self.thumbnails(pictures) if last else None
            return evaluate(
                self.labeller(network), self.val_set, batches=shown, thumbnails=thumbnails
            )

        progress = Progress("training", settings.iterations, start)
        with stop.listening(), batches, shown, progress:
            logs = Logs(self.folder.train_csv, settings.log_every, start, progress)
            validation = Validation(
                self.folder, settings.validate_every, start, answer, score, logs
            )
            checkpoints = Checkpoints(
                self.folder, settings.checkpoint_every, settings.keep_every, start, validation, stop
            )
            callbacks = [stop, *([average] if average else []), logs, checkpoints, validation]
            if profile and is_main():
                callbacks.insert(0, Profile(self.folder.root))
            trainer = L.Trainer(
                **_engine(settings, world, self.device, network),
                default_root_dir=self.folder.root,  # where Lightning looks for SLURM's checkpoints
                gradient_clip_val=self.recipe.optim.clip_norm,
                max_steps=settings.iterations,
                logger=loggers or False,
                callbacks=callbacks,
            )
            state = str(self.folder.state) if start else None
            with explained(self.folder):
                trainer.fit(module, batches, ckpt_path=state, weights_only=True)
        if trainer.global_step < settings.iterations:
            kind = Terminated if stop.requested == signal.SIGTERM else Interrupted
            raise kind(
                f"stopped at iteration {trainer.global_step} of {settings.iterations}, all is saved; "
                f"go on with: hfgd train --resume --out {self.folder.root}"
            )
        fresh = validation.latest_iteration == settings.iterations
        return answer, validation.latest if fresh else None

    def _class_counts(self) -> Counts | None:
        """What sampling by class needs: the run's own, or counted by every process alike."""
        if not needs_counts(self.recipe.augment):
            return None
        counts = read_counts(self.folder.counts, self.train_set) if self.start else None
        if counts is None:
            with Progress("counting classes", len(self.train_set)) as progress:
                counts = class_counts(self.train_set, progress.update)
        return counts

    def _batches(
        self, network: Network, rank: int, world: int, counts: Counts | None
    ) -> TrainBatches:
        settings = self.recipe.train
        augment = Augment(self.recipe.augment, torch.as_tensor(network.mean), network.grid)
        stream = TrainStream(self.train_set, augment, settings.seed, counts)
        first = self.start * settings.accumulate
        share = _share(settings, world)
        return TrainBatches(stream, share, first, self.workers, rank, world)


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


class OneDevice(TorchElasticEnvironment):
    """A process among many that is told its one device, whatever its number on the machine."""

    def local_rank(self) -> int:
        """The index among the devices that Lightning is given."""
        return 0


def _engine(settings: TrainSpec, world: int, device: str, network: Network) -> dict[str, Any]:
    """What Lightning is told of machine, precision and processes."""
    engine: dict[str, Any] = {
        "accelerator": "auto",
        "devices": [int(device.partition(":")[2])] if device.startswith("cuda") else 1,
        "precision": settings.precision,
        "accumulate_grad_batches": settings.accumulate,
        "deterministic": settings.deterministic,
        "max_epochs": -1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "use_distributed_sampler": False,
    }
    if world == 1:  # else Lightning takes a SLURM job's variables for its own: requeues, and more
        return engine | {"plugins": LightningEnvironment()}
    strategy = DDPStrategy(
        cluster_environment=OneDevice(),
        gradient_as_bucket_view=True,
        # of the recipes' networks every parameter takes part in every loss; others may have idle ones
        find_unused_parameters=network.config is None or network.config.model is None,
    )
    # to Lightning every process is a machine with one device
    return engine | {"num_nodes": world, "strategy": strategy}


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
    for pattern in (
        *(".*does not have many workers.*", ".*weights_only.*", ".*LeafSpec.*"),
        ".*find_unused_parameters=True.*",
    ):
        warnings.filterwarnings("ignore", pattern)
