"""``hfgd train --profile``: where the time of a training step goes."""

import statistics
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.profiler import ProfilerActivity, profile

from hfgd.files import write_text
from hfgd.progress import say
from hfgd.training.module import LitSegmenter

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
