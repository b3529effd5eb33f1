"""Results one by one in a file, so that a call that was cut off goes on where it was."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfgd.errors import HfgdError
from hfgd.files import write_text

Row = dict[str, Any]


class Rows:
    """A file of JSON lines, each with a ``key``. A line that a kill cut off is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: set[str] = set()
        self._end = 0
        if path.is_file():
            with path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self.done.add(json.loads(line)["key"])
                    self._end += len(line)

    def add(self, row: Row) -> None:
        """Append a row."""
        line = (json.dumps(row) + "\n").encode()
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.truncate(self._end)
            file.seek(self._end)
            file.write(line)
        self._end += len(line)
        self.done.add(row["key"])

    def __iter__(self) -> Iterator[Row]:
        if self.path.is_file():
            with self.path.open("rb") as file:
                while file.tell() < self._end:
                    yield json.loads(file.readline())


def claim(out: Path, settings: Row) -> None:
    """Say in ``out/review.json`` what made the results; raises HfgdError where it was another."""
    file = out / "review.json"
    settings = json.loads(json.dumps(settings))
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        for key in sorted(before.keys() | settings.keys()):
            if before.get(key) != settings.get(key):
                raise HfgdError(
                    f"'{out}' holds a review with another {key} ({before.get(key)}, and now "
                    f"{settings.get(key)}); choose another --out, or delete the folder."
                )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(settings, indent=1) + "\n")
