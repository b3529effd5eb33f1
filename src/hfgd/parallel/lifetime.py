"""Processes that end with the one that started them, even if it was killed. No torch."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait

STARTER = "HFGD_STARTER"  # the process that started this one as a command
EVERY = 1.0  # seconds between looks at who the parent is


def begin_worker() -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the one that started this worker;
    end when that one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """End this process of ``multiprocessing`` as soon as the one that started it is gone.

    PyTorch's workers ask who their parent is. Under forkserver that is the server, which lives
    as long as they do.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        _end_after(lambda: wait([parent.sentinel]))


def as_starter() -> dict[str, str]:
    """What to put into the environment of a command that is to end with this process."""
    return {STARTER: str(os.getpid())}


def end_with_starter() -> None:
    """End this command as soon as the process that set ``as_starter`` is gone."""
    starter = os.environ.pop(STARTER, None)  # not inherited by what this process starts
    if starter is None or os.name == "nt":  # Windows never gives a process another parent
        return

    def gone() -> None:
        while os.getppid() == int(starter):
            time.sleep(EVERY)

    _end_after(gone)


def _end_after(gone: Callable[[], object]) -> None:
    def watch() -> None:
        gone()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
