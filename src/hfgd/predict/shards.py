"""Which share of the images a process labels: said by hand, by torchrun, or by SLURM. No torch."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hfgd.errors import HfgdError
from hfgd.parallel.launch import as_starter, launched

AGAIN = 2  # times that a shard which a signal killed is started once more


@dataclass(frozen=True)
class Shard:
    """Share ``index`` (from 0) of ``count``; people count from 1."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    @property
    def name(self) -> str:
        """For file names: '1-of-3'."""
        return f"{self.index + 1}-of-{self.count}"

    def owns(self, path: str) -> bool:
        """Whether a path belongs to this share: by the path alone, so that other images do not
        move it, and wherever it is asked."""
        if self.count == 1:
            return True
        digest = hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index


def parse_shard(text: str) -> Shard:
    """'2/3' → the second of three."""
    first, slash, count = text.partition("/")
    if not (slash and first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise HfgdError(f"--shard takes i/n with i from 1 to n, such as 1/3, not '{text}'.")
    return Shard(int(first) - 1, int(count))


def own_shard() -> Shard:
    """This process's share as torchrun (RANK, WORLD_SIZE) or srun says; all of it for one alone."""
    rank, world = launched()
    if world > 1:
        return Shard(rank, world)
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    return Shard(int(os.environ["SLURM_PROCID"]), tasks) if tasks > 1 else Shard()


def own_device(device: str | None, model: str) -> str | None:
    """'cuda', or none said, as this process's own GPU where several were started on a machine."""
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    if local is None or own_shard().count == 1 or device not in (None, "cuda"):
        return device
    if model.endswith(".onnx"):  # runs without torch, on the GPU that onnxruntime takes
        return device
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{int(local) % count}" if count else device


def run_shards(arguments: Sequence[str], count: int) -> list[int]:
    """Run ``hfgd ARGUMENTS`` as ``count`` processes; returns their exit codes when all have ended.

    They share nothing: one that finds broken images, or dies, does not stop the others. One that a
    signal killed (the system does that where memory is short) is started again, twice at most: it
    goes on with what is missing.
    """
    threads = str(max(1, (os.cpu_count() or 1) // count))
    running: dict[int, subprocess.Popen[bytes]] = {}
    codes, left = [0] * count, [AGAIN] * count

    def start(rank: int) -> None:
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        environment = {"OMP_NUM_THREADS": threads, **os.environ, **own, **as_starter()}
        running[rank] = subprocess.Popen(
            [sys.executable, "-P", "-m", "hfgd", *arguments], env=environment
        )

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the shares end with it
    try:
        for rank in range(count):
            start(rank)
        while running:
            for rank, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[rank]
                codes[rank] = code if code >= 0 else 128 - code
                if code < 0 and left[rank]:
                    left[rank] -= 1
                    name = signal.Signals(-code).name
                    print(
                        f"shard {Shard(rank, count)} was killed by {name}; it goes on",
                        file=sys.stderr,
                        flush=True,
                    )
                    start(rank)
            time.sleep(0.05)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        signal.signal(signal.SIGTERM, before)
    return codes
