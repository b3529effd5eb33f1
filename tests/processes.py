"""Commands in processes of their own, and how they must end: in time, with nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WITHIN = 600.0  # seconds for a whole command; the machine may be busy
AFTER = 60.0  # seconds from a command's last line to its end
GONE = 30.0  # seconds until nothing that it started is left
HFGD = ("-m", "hfgd")
BY_METHOD = (
    "import multiprocessing, sys; multiprocessing.set_start_method(sys.argv.pop(1)); "
    "from hfgd.cli import main; main()"
)
MARK = "HFGD_TEST_COMMAND"  # inherited by whatever a command starts, so that it can be found


@dataclass(frozen=True)
class Ended:
    """How a command ended: ``after`` seconds from its last line on."""

    code: int
    out: str
    err: str
    after: float


class Command:
    """A command that runs; ``hfgd`` is this environment's.

    ``method``: how its workers start (fork, spawn, forkserver); the system's own way without it.
    """

    def __init__(
        self,
        words: Sequence[object],
        cwd: Path | None = None,
        method: str | None = None,
        **environment: str,
    ):
        start = [str(word) for word in words]
        if start[0] == "hfgd":
            start = [sys.executable, *(["-c", BY_METHOD, method] if method else HFGD), *start[1:]]
        self.mark = f"{MARK}={uuid.uuid4()}"
        threads = os.environ.get("HFGD_TEST_THREADS", "1")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        mine = dict([self.mark.split("=")], OMP_NUM_THREADS=threads, PATH=path)
        self.process = subprocess.Popen(
            start,
            cwd=cwd,
            env={**os.environ, **mine, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.pid, self.poll = self.process.pid, self.process.poll
        self._spoke = time.monotonic()
        self._said: tuple[list[bytes], list[bytes]] = ([], [])
        streams = (self.process.stdout, self.process.stderr)
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in zip(streams, self._said, strict=True)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream, lines):
        for line in stream:
            self._spoke = time.monotonic()
            lines.append(line)

    def said(self) -> str:
        """All lines so far, stdout's first."""
        return "".join(line.decode() for lines in self._said for line in list(lines))

    def send(self, number: int) -> None:
        """Send a signal to the command alone."""
        self.process.send_signal(number)

    def send_all(self, number: int) -> None:
        """Send a signal to the command and all that it started, as a terminal or a scheduler does."""
        for pid in self.running():
            os.kill(pid, number)

    def children(self) -> list[int]:
        """Processes that this one started itself."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return [int(pid) for t in threads for pid in (t / "children").read_text().split()]

    def running(self) -> list[int]:
        """The command and all that it started, however far away they went."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdecimal() and self.mark.encode() in (
                    (folder / "environ").read_bytes().split(b"\0")
                ):
                    found.append(int(folder.name))
            except OSError:  # it ended meanwhile, or is another user's
                continue
        return found

    def end(self, within: float = WITHIN) -> Ended:
        """Wait for the end; fails where it hangs, or where a process is left behind."""
        try:
            deadline = time.monotonic() + within
            while self.process.poll() is None:
                now = time.monotonic()
                assert now < deadline, f"it runs after {within} s:\n{self.said()}"
                time.sleep(0.02)
            ended = time.monotonic()
            assert not self._left(), f"left behind: {self._left()}\n{self.said()}"
            for reader in self._readers:
                reader.join(10)
            out, err = (b"".join(lines).decode() for lines in self._said)
            after = ended - self._spoke
            assert after < AFTER, f"it ended {after:.0f} s after its last line:\n{out}{err}"
            return Ended(self.process.returncode, out, err, after)
        finally:
            self.kill()

    def _left(self) -> list[str]:
        """What runs although the command has ended; workers have a moment to notice it."""
        deadline = time.monotonic() + GONE
        while (pids := self.running()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [f"{pid} {cmdline(pid)}" for pid in pids]

    def kill(self) -> None:
        """Kill the command and all that it started."""
        for pid in self.running():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def cmdline(pid: int) -> str:
    """A process's command line; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def finished(words: Sequence[object], code: int = 0, cwd: Path | None = None, **more) -> Ended:
    """Run a command to its end: in time, nothing left, with this exit code, without a traceback."""
    ended = Command(words, cwd, **more).end()
    assert ended.code == code, f"exit code {ended.code}:\n{ended.out}{ended.err}"
    assert "Traceback" not in ended.err, ended.err
    return ended
