"""A graceful stop: Ctrl-C, and the SIGTERM that schedulers send before they take a machine away."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import lightning as L
import torch

from hfgd.data.loader import WORKER_DIED, worker_died
from hfgd.errors import HfgdError, TrainingStopped
from hfgd.files import is_disk_full
from hfgd.parallel.launch import launched
from hfgd.training.run_folder import RunFolder

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(TrainingStopped):
    """Stopped by Ctrl-C with everything saved."""

    exit_code = 130


class Terminated(TrainingStopped):
    """Stopped by SIGTERM with everything saved."""

    exit_code = 143


class Stop(L.Callback):
    """Which signal asked the run to stop; the second Ctrl-C stops it at once."""

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals while the block runs (Python hands them to the main thread only)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        except BaseException:
            if (
                launched()[1] > 1
            ):  # the launcher sends SIGTERM to all; this one still has to say why
                before[signal.SIGTERM] = signal.SIG_IGN
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Lightning puts a handler of its own before ours, which stops without saving."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.requested is not None and number == signal.SIGINT
        # many processes hear of one Ctrl-C more than once: from the terminal and from the launcher
        if again and launched()[1] == 1:
            raise KeyboardInterrupt
        self.requested = self.requested or signal.Signals(number)


@contextmanager
def explained(folder: RunFolder) -> Iterator[None]:
    """Turn what can happen to a good program into TrainingStopped; our mistakes stay as they are."""
    try:
        yield
    except TrainingStopped:
        raise
    except SystemExit as leave:
        if not isinstance(leave.__context__, KeyboardInterrupt):
            raise
        # Lightning's exit at a second Ctrl-C, with a code of its own
        raise Interrupted(f"stopped at once; {_last_good(folder)}") from leave
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise TrainingStopped(f"{reason.rstrip('.')}; {_last_good(folder)}") from error


def _reason(error: Exception) -> str | None:
    text = str(error)
    if isinstance(error, HfgdError):
        return text
    if is_disk_full(error):
        name = getattr(error, "filename", None) or "the run folder"
        return f"the disk is full while writing '{name}': make room"
    if isinstance(error, OSError):
        return f"reading or writing failed ({error})"
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "the GPU's memory is full: try train.precision=bf16-mixed, a larger train.accumulate, "
            "train.checkpoint_activations=true, or a smaller crop"
        )
    if "does not have a deterministic implementation" in text:
        operation = text.split(" does not have a deterministic")[0].split()[-1]
        return (
            f"train.deterministic: '{operation}' has no deterministic implementation on this device, "
            "and this model needs it: leave train.deterministic (--deterministic) out, or choose "
            "another encoder or upsampler (ppm and fapn need such operations on GPUs)"
        )
    if worker_died(error):
        return WORKER_DIED
    if "Duplicate GPU" in text:  # NCCL's words
        return "two processes were given the same GPU: start one for each GPU (--devices)"
    if launched()[1] > 1 and isinstance(error, RuntimeError) and _lost(error):
        return "another process of this run ended or cannot be reached"
    return None


def _lost(error: RuntimeError) -> bool:
    """Whether a collective failed because of another process."""
    words = ("onnection", "gloo", "NCCL", "peer", "imed out", "Timeout")
    return isinstance(error, torch.distributed.DistError) or any(w in str(error) for w in words)


def _last_good(folder: RunFolder) -> str:
    if not folder.state.is_file():
        return "no checkpoint had been written yet."
    return (
        f"the last good checkpoint is {folder.state} (iteration {read_iteration(folder.state)}): "
        f"go on with: hfgd train --resume --out {folder.root}"
    )


def read_iteration(state: Path) -> int:
    """The iteration a saved state belongs to; 0 where there is none yet."""
    if not state.is_file():
        return 0
    try:
        content = torch.load(state, map_location="cpu", weights_only=True, mmap=True)
        return int(content["global_step"])
    except Exception as error:  # torch raises many kinds for a damaged file
        raise HfgdError(
            f"'{state}' is damaged and cannot be resumed from ({type(error).__name__}); "
            "start a new run, or fine-tune from the model in last/ with train.init."
        ) from error
