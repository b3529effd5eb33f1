"""Progress of long work: a live bar with an ETA on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from hfgd.parallel.launch import is_main
from hfgd.text import one_line

PLAIN_EVERY = 30.0  # seconds between plain lines


class Progress:
    """``with Progress("reading", total) as progress: progress.update(done, "details")``.

    Everything goes to stderr, so that results on stdout can be piped.
    """

    def __init__(self, title: str, total: int, start: int = 0) -> None:
        self.title, self.total, self.start = title, total, start
        self._began = self._spoke = time.monotonic()
        self._bar: RichProgress | None = None
        if is_main() and sys.stderr.isatty():
            from rich.console import Console

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=12, table_column=Column(min_width=12)),
                MofNCompleteColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(compact=True, table_column=Column(min_width=5)),
                # on a narrow terminal it is the details that are cut, not the ETA
                TextColumn(
                    "{task.fields[details]}",
                    table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
                ),
                expand=True,
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(title, total=total, completed=start, details="")

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, details: str = "", say: bool = False) -> None:
        """``done`` of the total is done; ``say`` prints a plain line whatever the time."""
        details = one_line(details)
        if self._bar is not None:
            self._bar.update(self._task, total=self.total, completed=done, details=details)
            return
        now = time.monotonic()
        if not is_main():
            return
        if say or now - self._spoke >= PLAIN_EVERY or done >= self.total:
            self._spoke = now
            elapsed = now - self._began
            fresh = max(1, done - self.start)
            left = format_duration(elapsed / fresh * (self.total - done))
            text = f"{self.title} {done}/{self.total} · ETA {left}"
            print(f"{text} · {details}" if details else text, file=sys.stderr, flush=True)


def say(line: str) -> None:
    """A line for whoever watches, on stderr; one process of many says it."""
    if is_main():
        print(*map(one_line, line.split("\n")), sep="\n", file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """Seconds as people say them: '45 s', '12 min', '3 h 05 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"
