"""``hfgd train --profile``: where the time of a training step goes."""

import copy
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hfgd.checkpoint import CONFIG, add_facts, read_config, save_model
from hfgd.errors import HfgdError
from hfgd.evaluation.report import percent
from hfgd.evaluation.scores import Scores
from hfgd.files import write_text, write_whole
from hfgd.model.network import Network
from hfgd.parallel.launch import is_main
from hfgd.parallel.processes import any_process, averaged, joined, same_buffers
from hfgd.progress import Progress, say
from hfgd.training.failures import Stop
from hfgd.training.module import LitSegmenter
from hfgd.training.run_folder import RunFolder

WARM_UP, STEPS = 3, 10  # steps before, and steps that are measured
PHASES = ("data", "forward", "losses", "backward", "optimiser")


class Profile(L.Callback):
    """Times the phases of steps 4 to 13 of this start, traces two more; writes both into the folder.

    ``profile.md``: milliseconds by phase and the heaviest operations. ``trace.json``: two steps for
    a trace viewer. Reading the clock waits for the GPU, so the run is a little slower meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._times: dict[str, list[float]] = {name: [] for name in PHASES}
        self._step = 0
        self._trace: Any = None
        self._clock = time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, LitSegmenter)
        module.mark = lambda phase: self._mark(phase, module)

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._mark("data", module)
        if self._step == WARM_UP + STEPS:
            activities = [ProfilerActivity.CPU]
            if module.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._trace = profile(activities=activities)
            self._trace.start()

    def on_before_backward(self, trainer: L.Trainer, module: L.LightningModule, loss: Any) -> None:
        self._mark("losses", module)

    def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._mark("backward", module)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self._mark("optimiser", module)
        self._step += 1
        if self._trace is not None and self._step == WARM_UP + STEPS + 2:
            self._trace.stop()
            self._write(module)
            self._trace = None

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._step < WARM_UP + STEPS + 2:
            say(f"profile: not written; it takes {WARM_UP + STEPS + 2} steps.")

    def _mark(self, phase: str, module: L.LightningModule) -> None:
        if self._step >= WARM_UP + STEPS:
            return
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._step >= WARM_UP:
            self._times[phase].append(now - self._clock)
        self._clock = now

    def _write(self, module: L.LightningModule) -> None:
        medians = {name: statistics.median(t) if t else 0.0 for name, t in self._times.items()}
        whole = sum(medians.values())
        lines = ["# One training step", "", "| phase | ms | share |", "| --- | ---: | ---: |"]
        lines += [f"| {n} | {1000 * t:.1f} | {t / whole:.0%} |" for n, t in medians.items() if t]
        lines += [f"| all | {1000 * whole:.1f} | |", ""]
        key = "self_device_time_total" if module.device.type == "cuda" else "self_cpu_time_total"
        operations = self._trace.key_averages().table(sort_by=key, row_limit=25)
        lines += [f"Medians of {STEPS} steps. The heaviest operations of two more:", "", "```"]
        lines += [operations.strip(), "```", ""]
        write_text(self.folder / "profile.md", "\n".join(lines))
        self._trace.export_chrome_trace(str(self.folder / "trace.json"))
        shares = ", ".join(f"{n} {t / whole:.0%}" for n, t in medians.items() if t)
        say(f"profile: {1000 * whole:.0f} ms a step ({shares}); written: {self.folder}/profile.md")


# ---- callbacks -----------------------------------------------------------------------------------


NO_MEMORY = (
    "the GPU's memory is full while the validation images are scored, each at its own size: make the "
    "images of the validation split smaller, free the GPU of other programs, or score the saved model "
    "in windows with hfgd eval --protocol slide"
)
POLL_EVERY = 10  # iterations between the questions whether another process was asked to stop


class CsvLog:
    """Rows by iteration in a CSV file; resuming drops the rows after the checkpoint."""

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        if not is_main():
            return
        kept = []
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                kept = [row for row in csv.reader(file) if row]
            # a kill may have cut the last row off
            rows = [row for row in kept[1:] if len(row) == len(kept[0])]
            kept = kept[:1] + [row for row in rows if int(row[0]) <= start]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(",".join(row) + "\n" for row in kept))
        self._empty = not kept

    def add(self, iteration: int, values: dict[str, float]) -> None:
        """Append one row; the first one brings the header."""
        if not is_main():
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if self._empty:
                writer.writerow(["iteration", *values])
                self._empty = False
            writer.writerow([iteration, *(f"{value:.6g}" for value in values.values())])


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


class AfterStep(L.Callback):
    """Acts once after each optimiser step, however many parts its batch was passed in."""

    def __init__(self, start: int) -> None:
        self._done = start

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Call ``after_step`` when a step has been made."""
        self.after_part(outputs["terms"])
        if trainer.global_step != self._done:
            self._done = trainer.global_step
            assert isinstance(module, LitSegmenter)
            self.after_step(trainer, module, trainer.global_step)

    def after_part(self, terms: dict[str, Tensor]) -> None:
        """A part of a batch has passed; ``terms`` are its losses by name."""

    def after_step(self, trainer: L.Trainer, module: LitSegmenter, done: int) -> None:
        """Iteration ``done`` is complete."""
        raise NotImplementedError


class Average(AfterStep):
    """An exponential moving average of the weights, and of the batch norms' statistics.

    The first step is copied, and so is what is no floating-point number (index tables, counters).
    PyTorch's AveragedModel counts on the device and reads the count back in every step; this one counts
    in Python. Its state has the same names.
    """

    def __init__(self, network: Network, decay: float, start: int) -> None:
        super().__init__(start)
        self.network = copy.deepcopy(network)  # with the averaged weights
        self._decay, self._count = decay, 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.network.to(module.device)

    @torch.no_grad()
    def after_step(self, trainer: L.Trainer, module: LitSegmenter, done: int) -> None:
        pairs = list(zip(_tensors(self.network), _tensors(module.network), strict=True))
        averaged_ = [pair for pair in pairs if self._count and pair[0].is_floating_point()]
        copied = [pair for pair in pairs if not (self._count and pair[0].is_floating_point())]
        if averaged_:
            mine, theirs = zip(*averaged_, strict=True)
            torch._foreach_lerp_(mine, theirs, 1 - self._decay)
        for average, current in copied:
            average.copy_(current)
        self._count += 1

    def state_dict(self) -> dict[str, Any]:
        tensors = {f"module.{name}": tensor for name, tensor in self.network.state_dict().items()}
        return {"n_averaged": torch.tensor(self._count), **tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        tensors = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        self._count = int(tensors.pop("n_averaged"))
        self.network.load_state_dict(tensors)


def _tensors(network: Network) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


class Logs(AfterStep):
    """Losses by name: averaged, to CSV, the loggers and the progress line."""

    def __init__(self, csv_path: Path, every: int, start: int, progress: Progress) -> None:
        super().__init__(start)
        self.every = every
        self.csv = CsvLog(csv_path, start)
        self.progress = progress
        self.details = self.miou_text = ""
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def after_part(self, terms: dict[str, Tensor]) -> None:
        total = torch.stack(list(terms.values())).sum()
        for name, value in {"loss": total, **terms}.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._count += 1

    def after_step(self, trainer: L.Trainer, module: LitSegmenter, done: int) -> None:
        """Every ``log_every`` iterations write the means."""
        say = done % self.every == 0 or done == trainer.max_steps
        if say:
            together = averaged(torch.stack(list(self._sums.values())) / self._count)
            means = dict(zip(self._sums, together.tolist(), strict=True))
            lr = max(group["lr"] for group in trainer.optimizers[0].param_groups)
            self.csv.add(done, {"lr": lr, **means})
            for logger in trainer.loggers:
                logger.log_metrics({"lr": lr, **{f"train/{k}": v for k, v in means.items()}}, done)
            terms = " ".join(f"{k} {v:.3f}" for k, v in means.items() if k != "loss")
            self.details = f"loss {means['loss']:.3f} = {terms}"
            self._sums, self._count = {}, 0
        self.show(done, say)

    def show(self, done: int, say: bool) -> None:
        """The progress line: losses by name and the current mIoU."""
        self.progress.update(done, f"{self.details}{self.miou_text}".removeprefix(" · "), say)


class Validation(AfterStep):
    """Scores on the validation split every ``every`` iterations; the best model is kept.

    ``score``: the network, and whether it is the last time → its Scores, under the run's own branch and
    precision.
    """

    def __init__(
        self,
        folder: RunFolder,
        every: int,
        start: int,
        network: Network,
        score: Callable[[Network, bool], Scores],
        logs: Logs,
    ) -> None:
        super().__init__(start)
        self.folder, self.every, self.network, self.score = folder, every, network, score
        self.logs = logs
        self.csv = CsvLog(folder.val_csv, start)
        self.best = float("-inf")
        self.best_iteration = 0
        self.latest: Scores | None = None
        self.latest_iteration = 0
        scored = {row.split(",")[0] for row in _lines(folder.val_csv)}
        self._missed = start > 0 and start % every == 0 and str(start) not in scored

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_iteration": self.best_iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_iteration = state["best"], state["best_iteration"]
        if (self.folder.best / CONFIG).is_file():  # the state was saved before its model was scored
            facts = read_config(self.folder.best).facts
            if facts.get("iteration") == self._done:
                self.best, self.best_iteration = facts["mIoU"], self._done

    def due(self, trainer: L.Trainer, done: int) -> bool:
        """Whether iteration ``done`` is validated."""
        return done % self.every == 0 or done == trainer.max_steps

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Make up for the validation that the saved iteration did not live to see."""
        if self._missed:
            assert isinstance(module, LitSegmenter)
            self.after_step(trainer, module, self._done)

    def after_step(self, trainer: L.Trainer, module: LitSegmenter, done: int) -> None:
        """Validate when it is time."""
        if not self.due(trainer, done):
            return
        module.failures.check()  # what is scored may be kept as the best
        same_buffers(self.network)  # all processes score, and the first one saves, one model
        try:
            scores = self.score(self.network, done == trainer.max_steps)
        except torch.OutOfMemoryError as error:
            raise HfgdError(NO_MEMORY) from error
        self.latest, self.latest_iteration = scores, done
        self.csv.add(done, scores.summary())
        for logger in trainer.loggers:
            logger.log_metrics({f"val/{k}": v for k, v in scores.summary().items()}, done)
        if scores.miou > self.best:
            self.best, self.best_iteration = scores.miou, done
            facts = {"iteration": done, **scores.summary()}
            if is_main():
                save_model(self.network, self.folder.best, facts)
        if is_main() and (self.folder.last / CONFIG).is_file():  # saved before it was scored
            add_facts(self.folder.last, done, scores.summary())
        self.logs.miou_text = (
            f" · mIoU {percent(scores.miou)} (best {percent(self.best)} at {self.best_iteration})"
        )
        self.logs.show(done, say=True)


class Checkpoints(AfterStep):
    """The state to resume from, and the model as it is, every ``every`` iterations, before every
    validation and when asked to stop; ``keep_every``: also keep the model of every so many.

    Comes before Validation in the list of callbacks: whatever breaks a validation loses nothing.
    """

    def __init__(
        self,
        folder: RunFolder,
        every: int,
        keep_every: int | None,
        start: int,
        validation: Validation,
        stop: Stop,
    ) -> None:
        super().__init__(start)
        self.folder, self.every, self.keep_every = folder, every, keep_every
        self.validation, self.stop = validation, stop

    def after_step(self, trainer: L.Trainer, module: LitSegmenter, done: int) -> None:
        """Save when it is time; end the run where a stop was asked for, in any process."""
        due = done % self.every == 0 or self.validation.due(trainer, done)
        keep = self.keep_every is not None and done % self.keep_every == 0
        stopping = False
        if due or joined()[1] == 1 or done % POLL_EVERY == 0:  # many processes ask each other
            stopping = any_process(self.stop.requested is not None, module.device)
        if not (due or keep or stopping):
            return
        module.failures.check()  # nothing broken is kept
        if keep and is_main():
            self._save_model(self.folder.kept(done), done)
        if not (due or stopping):
            return
        if is_main():
            self._save_model(self.folder.last, done)
            write_whole(self.folder.state, trainer.save_checkpoint)
        else:
            trainer.save_checkpoint(self.folder.state)  # takes part and writes nothing
        trainer.should_stop |= stopping

    def _save_model(self, folder: Path, done: int) -> None:
        save_model(self.validation.network, folder, {"iteration": done})
