"""Processes: which one this is, when it ends, and how a command starts several."""

import hashlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from hfgd.errors import HfgdError


def launched() -> tuple[int, int]:
    """This process's rank and their number, as whoever started them says: also before they join."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return 0, 1


def is_main() -> bool:
    """Whether this is the process that writes files and talks."""
    return launched()[0] == 0


# ---- how long they live --------------------------------------------------------------------------


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


# ---- starting processes --------------------------------------------------------------------------


class Ended(HfgdError):
    """The processes have ended, not all of them well; they have said why themselves."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def take_part() -> bool:
    """Whether this process is one of several that were started together (torchrun, srun).

    What SLURM says in its own variables is put into the ones that PyTorch reads.
    """
    if "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        try:
            slurm = SLURMEnvironment(auto_requeue=False)
        except RuntimeError as error:  # it wants the tasks of a node said
            raise HfgdError(
                "under SLURM say how many processes each machine runs: srun --ntasks-per-node=N."
            ) from error
        os.environ |= {
            "RANK": os.environ["SLURM_PROCID"],
            "WORLD_SIZE": os.environ["SLURM_STEP_NUM_TASKS"],
            "LOCAL_RANK": os.environ["SLURM_LOCALID"],
            "MASTER_ADDR": slurm.main_address,
            "MASTER_PORT": str(slurm.main_port),
            "LOCAL_WORLD_SIZE": _tasks_of_a_node(),
        }
    return launched()[1] > 1


def _tasks_of_a_node() -> str:
    """Processes of this step on a machine: '4(x2)' where several machines have as many."""
    of_step = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0]
    return of_step if of_step.isdigit() else os.environ["SLURM_NTASKS_PER_NODE"]


def first_to_say(sentence: str) -> bool:
    """Whether no other process of this machine has said this sentence yet: a mistake in a recipe is
    found by all of them, and one has to say it. PyTorch's launcher gives them a common folder."""
    place = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not place:  # one process alone, or started by srun
        return True
    name = hashlib.sha256(sentence.encode()).hexdigest()[:16]
    try:
        (Path(place).parents[1] / f"said-{name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def launch(arguments: Sequence[str], devices: int, nodes: int) -> None:
    """Run ``hfgd ARGUMENTS`` as ``devices`` processes on this machine, of ``nodes`` machines.

    Several machines meet at MASTER_ADDR (and MASTER_PORT, 29500 without it), and NODE_RANK says
    which one this is. Returns when all have ended well; raises Ended otherwise.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if nodes > 1 and not {"MASTER_ADDR", "NODE_RANK"} <= os.environ.keys():
        raise HfgdError(
            "several machines need to find each other: set MASTER_ADDR (a name of the first one) and "
            "NODE_RANK (0, 1, …) on each, or start the command by torchrun or srun."
        )
    port = os.environ.get("MASTER_PORT", "29500")
    where = f"{os.environ['MASTER_ADDR']}:{port}" if nodes > 1 else "localhost:0"
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=devices,
        run_id="hfgd" if nodes > 1 else str(uuid.uuid4()),
        rdzv_backend="static" if nodes > 1 else "c10d",
        rdzv_endpoint=where,
        rdzv_configs={"rank": int(os.environ["NODE_RANK"])} if nodes > 1 else {},
        max_restarts=0,
    )
    # it reports on its children by itself; we say it in a sentence
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # as torchrun does, but with the cores shared out
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    os.environ |= as_starter()  # taken out again below: what runs in this process has no starter
    try:
        elastic_launch(config, sys.executable)("-P", "-m", "hfgd", *arguments)
    except SignalException as error:
        name = signal.Signals(error.sigval).name
        raise Ended(f"stopped by {name}.", 128 + error.sigval) from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = f"with exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        raise Ended(
            f"process {rank} of {devices * nodes} ended {how}, and the others were stopped.",
            code if code > 0 else 128 - code,
        ) from error
    finally:
        os.environ.pop(STARTER, None)
