"""Results one by one in a file, so that a call that was cut off goes on where it was."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from hfgd.errors import HfgdError
from hfgd.files import write_text
from hfgd.parse import read_json

Row = dict[str, Any]
T = TypeVar("T")


class JsonRows:
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
                    try:
                        self.done.add(str(json.loads(line)["key"]))
                    except (ValueError, KeyError, TypeError, RecursionError) as error:
                        raise HfgdError(
                            f"'{path}' is damaged after byte {self._end}; delete it, and the call "
                            "begins anew."
                        ) from error
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

    def at(self, place: int) -> Row:
        """The row that begins at this byte of the file."""
        with self.path.open("rb") as file:
            file.seek(place)
            row: Row = json.loads(file.readline())
            return row


class Ranked(Generic[T]):
    """Rows in an order of their own, each made into a value when it is asked for: of all of them only
    places and ranks are in memory.
    """

    def __init__(
        self, rows: JsonRows, rank: Callable[[Row], tuple[float, str]], make: Callable[[Row], T]
    ) -> None:
        self._rows, self._make = rows, make
        places: list[tuple[tuple[float, str], int]] = []
        place = 0
        if rows.path.is_file():
            with rows.path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    places.append((rank(json.loads(line)), place))
                    place += len(line)
        self._places = [place for _, place in sorted(places)]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[T]:
        return (self._make(self._rows.at(place)) for place in self._places)

    def first(self, count: int) -> list[T]:
        """The first ones."""
        return [self._make(self._rows.at(place)) for place in self._places[:count]]


def claim(out: Path, settings: Row) -> None:
    """Say in ``out/review.json`` what made the results; raises HfgdError where it was another."""
    file = out / "review.json"
    settings = json.loads(json.dumps(settings))
    if file.is_file():
        before = read_json(file)
        if not isinstance(before, dict):
            raise HfgdError(f"'{file}' is damaged; choose another --out, or delete the folder.")
        for key in sorted(before.keys() | settings.keys()):
            if before.get(key) != settings.get(key):
                raise HfgdError(
                    f"'{out}' holds a review with another {key} ({before.get(key)}, and now "
                    f"{settings.get(key)}); choose another --out, or delete the folder."
                )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(settings, indent=1) + "\n")
