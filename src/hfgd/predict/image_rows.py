"""What is known of every label map, as rows that survive a kill: each share's own files in parts/."""

import csv
import io
import json
import os
import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hfgd.data.images import BROKEN, Pixels, open_image
from hfgd.errors import HfgdError
from hfgd.predict.inputs import Failed
from hfgd.predict.shards import Shard
from hfgd.predict.storage import Bucket, Folder
from hfgd.text import csv_text, csv_value

PARTS = "parts"
FACTS = ("label", "path", "height", "width", "seconds", "mean_confidence")
WHOLE = re.compile(r"[0-9]{1,19}")
NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?|nan|inf")
FLUSH = 200  # rows that wait for an address, which cannot be appended to


class ImageRow(NamedTuple):
    """A label map: its name below labels/, its image, its size, how long the network took, the mean
    over its pixels of the best class's probability (None: not known), pixels of each class."""

    label: str
    path: str
    height: int
    width: int
    seconds: float | None
    confidence: float | None
    pixels: Sequence[int]

    def cells(self) -> list[str]:
        """As the manifest has it."""
        seconds = "" if self.seconds is None else f"{self.seconds:.4f}"
        confidence = "" if self.confidence is None else f"{self.confidence:.6f}"
        facts = [self.label, self.path, self.height, self.width, seconds, confidence]
        return [*map(str, facts), *map(str, self.pixels)]


def count_classes(labels: Pixels, classes: int) -> list[int]:
    """Pixels of each class; void is none of them."""
    counts = np.bincount(labels.ravel(), minlength=256)
    return [int(n) for n in counts[:classes]]


def is_sound(cells: Sequence[str]) -> bool:
    """Whether the cells of a dated row are numbers where ``cells`` and ``_dated`` write some."""
    whole = (*cells[2:4], *cells[len(FACTS) :])
    return all(WHOLE.fullmatch(cell) and int(cell) < 1 << 63 for cell in whole) and all(
        not cell or NUMBER.fullmatch(cell) for cell in cells[4 : len(FACTS)]
    )


def cells_of(line: str) -> list[str]:
    """The cells of a line that ``line_of`` wrote; none where it is cut off or foreign."""
    try:
        return [csv_value(cell) for cell in next(csv.reader([line.replace("\0", "")]), [])]
    except csv.Error:
        return []


def label_of_png(data: bytes | None) -> Pixels | None:
    """The labels of a PNG that was written here; None for a missing, broken or foreign file."""
    try:
        with open_image(io.BytesIO(data or b""), ("PNG",)) as image:
            return np.asarray(image) if image.mode in ("P", "L") else None
    except BROKEN:
        return None


class RowWriter:
    """The rows of a share. ``add`` is called before the label map is in its place, so that none is
    without its row after a kill; one that came to nothing is left out when they are merged.

    Raises HfgdError where another process works on the same share (on one machine).
    """

    def __init__(self, place: Folder | Bucket, shard: Shard) -> None:
        self._place, self._shard, self._waiting = place, shard, ""
        self._file: Any = None
        place.remove(f"{PARTS}/{shard.name}.json")  # not ended
        if isinstance(place, Folder):
            self._file = _locked(place.path(f"{PARTS}/{shard.name}.csv"), shard)

    def add(self, row: ImageRow) -> None:
        """Keep a row."""
        line = _dated(row)
        if self._file is not None:
            self._file.write(line.encode(errors="surrogateescape"))
            return
        self._waiting += line
        if self._waiting.count("\n") >= FLUSH:
            self._flush()

    def close(self, images: int, failed: Sequence[Failed]) -> None:
        """Say that the share has ended, with what failed in it."""
        self._flush()
        lines = "".join(line_of(entry) for entry in failed)
        self._place.write(f"{PARTS}/{self._shard.name}.failed.csv", encoded(lines))
        say_ended(self._place, images, len(failed), self._shard)
        self.leave()

    def leave(self) -> None:
        """Let others work on the share."""
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            name = f"{PARTS}/{self._shard.name}.{time.time_ns()}.csv"
            self._place.write(name, encoded(self._waiting))
            self._waiting = ""


def write_rows(place: Folder | Bucket, rows: Sequence[ImageRow], failed: Sequence[Failed]) -> None:
    """Rows and failures of an engine, as files of their own: any number of workers may do it."""
    name = f"{PARTS}/{Shard().name}.{uuid.uuid4().hex}"
    if rows:
        place.write(f"{name}.csv", encoded("".join(map(_dated, rows))))
    if failed:
        place.write(f"{name}.failed.csv", encoded("".join(map(line_of, failed))))


def say_ended(place: Folder | Bucket, images: int, failed: int, shard: Shard) -> None:
    """Say that a share has come to its end."""
    end = {"images": images, "failed": failed}
    place.write(f"{PARTS}/{shard.name}.json", json.dumps(end).encode())


def _dated(row: ImageRow) -> str:
    return line_of([*row.cells(), str(time.time_ns())])


def _locked(path: Path, shard: Shard) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+b", buffering=0)
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise HfgdError(
            f"another process is at work on share {shard} of '{path.parents[1]}'; wait for it."
        ) from error
    except (ImportError, OSError):
        pass  # a file system without locks
    size = file.seek(0, os.SEEK_END)  # a kill may have left half a line
    while size and _byte(file, size - 1) != b"\n":
        size -= 1
    file.truncate(size)
    return file


def _byte(file: Any, place: int) -> bytes:
    file.seek(place)
    byte: bytes = file.read(1)
    return byte


def line_of(cells: Sequence[str]) -> str:
    """A line of a CSV file."""
    return csv_text([[without_breaks(cell) for cell in cells]])


def without_breaks(text: str) -> str:
    r"""A text whose line breaks are written as '\n' and '\r': a row is one line."""
    return text.replace("\n", "\\n").replace("\r", "\\r").replace("\0", "")


def encoded(text: str) -> bytes:
    """File names that are no UTF-8 keep their bytes."""
    return text.encode(errors="surrogateescape")
