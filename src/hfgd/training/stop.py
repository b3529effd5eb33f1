"""A graceful stop: Ctrl-C, and the SIGTERM that schedulers send before they take a machine away."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import lightning as L

from hfgd.errors import TrainingStopped
from hfgd.parallel.rank import launched

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
