"""What happens beside the training steps: logs, validation, checkpoints, a graceful stop."""

import csv
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from torch import Tensor

from hfgd.checkpoint import save_model
from hfgd.data.dataset import SegDataset
from hfgd.evaluation.evaluate import evaluate
from hfgd.evaluation.report import percent
from hfgd.evaluation.scores import Scores
from hfgd.files import write_text, write_whole
from hfgd.progress import Progress
from hfgd.recipes.spec import Recipe
from hfgd.training.module import LitSegmenter
from hfgd.training.run_folder import RunFolder


class CsvLog:
    """Rows by iteration in a CSV file; resuming drops the rows after the checkpoint."""

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        kept = []
        if path.is_file():
            with path.open(newline="") as file:
                kept = [row for row in csv.reader(file) if row]
            kept = kept[:1] + [row for row in kept[1:] if int(row[0]) <= start]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(",".join(row) + "\n" for row in kept))
        self._empty = not kept

    def add(self, iteration: int, values: dict[str, float]) -> None:
        """Append one row; the first one brings the header."""
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if self._empty:
                writer.writerow(["iteration", *values])
                self._empty = False
            writer.writerow([iteration, *(f"{value:.6g}" for value in values.values())])


class Stop:
    """Whether somebody asked the run to stop (Ctrl-C); the second time it stops at once."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT while the block runs."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.requested = True

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class Logs(L.Callback):
    """Losses by name: averaged, to CSV, TensorBoard and the progress line."""

    def __init__(self, folder: RunFolder, recipe: Recipe, start: int, progress: Progress) -> None:
        self.every = recipe.train.log_every
        self.csv = CsvLog(folder.train_csv, start)
        self.progress = progress
        self.details = self.miou_text = ""
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Add the terms up; every ``log_every`` iterations write their means."""
        for name, value in outputs.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()
        self._count += 1
        done = trainer.global_step
        say = done % self.every == 0 or done == trainer.max_steps
        if say:
            means = {name: (total / self._count).item() for name, total in self._sums.items()}
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            self.csv.add(done, {"lr": lr, **means})
            for logger in trainer.loggers:
                logger.log_metrics({"lr": lr, **{f"train/{k}": v for k, v in means.items()}}, done)
            terms = " ".join(f"{k} {v:.3f}" for k, v in means.items() if k != "loss")
            self.details = f"loss {means['loss']:.3f} = {terms}"
            self._sums, self._count = {}, 0
        self.show(done, say)

    def show(self, done: int, say: bool) -> None:
        """The progress line: losses by name and the current mIoU."""
        self.progress.update(done, f"{self.details}{self.miou_text}", say)


class Validation(L.Callback):
    """Scores on the validation split every N iterations; the best model is kept."""

    def __init__(
        self, folder: RunFolder, recipe: Recipe, dataset: SegDataset, start: int, logs: Logs
    ) -> None:
        self.folder, self.recipe, self.dataset, self.logs = folder, recipe, dataset, logs
        self.csv = CsvLog(folder.val_csv, start)
        self.best = float("-inf")
        self.best_iteration = 0
        self.latest: Scores | None = None
        self.latest_iteration = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_iteration": self.best_iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_iteration = state["best"], state["best_iteration"]

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Validate when it is time."""
        done = trainer.global_step
        if done % self.recipe.train.validate_every and done != trainer.max_steps:
            return
        assert isinstance(module, LitSegmenter)
        with trainer.precision_plugin.forward_context():
            scores = evaluate(
                module.network,
                self.dataset,
                branch=self.recipe.branch,
                workers=self.recipe.train.workers,
            )
        self.latest, self.latest_iteration = scores, done
        self.csv.add(done, scores.summary())
        for logger in trainer.loggers:
            logger.log_metrics({f"val/{k}": v for k, v in scores.summary().items()}, done)
        if scores.miou > self.best:
            self.best, self.best_iteration = scores.miou, done
            facts = {"iteration": done, **scores.summary()}
            save_model(module.network, self.recipe, self.folder.best, facts)
        self.logs.miou_text = (
            f" · mIoU {percent(scores.miou)} (best {percent(self.best)} at {self.best_iteration})"
        )
        self.logs.show(done, say=True)


class Checkpoints(L.Callback):
    """The state to resume from, and the model as it is, every N iterations and when asked to stop.

    Comes after Validation in the list of callbacks, so that what it saves includes the best score.
    """

    def __init__(
        self, folder: RunFolder, recipe: Recipe, validation: Validation, stop: Stop
    ) -> None:
        self.folder, self.recipe, self.validation, self.stop = folder, recipe, validation, stop

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Save when it is time; end the run where a stop was asked for."""
        done = trainer.global_step
        due = done % self.recipe.train.checkpoint_every == 0 or done == trainer.max_steps
        if not (due or self.stop.requested):
            return
        assert isinstance(module, LitSegmenter)
        facts: dict[str, Any] = {"iteration": done}
        if self.validation.latest is not None and self.validation.latest_iteration == done:
            facts |= self.validation.latest.summary()
        save_model(module.network, self.recipe, self.folder.last, facts)
        write_whole(self.folder.state, trainer.save_checkpoint)
        if self.stop.requested:
            trainer.should_stop = True
