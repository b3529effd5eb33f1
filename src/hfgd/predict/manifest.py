"""What is known of every label map: rows that survive a kill, and the manifest made of them.

Each share writes its own files below ``parts/``; merging them needs no process but one, at any time,
and little memory: the rows pass through a temporary SQLite file.
"""

import csv
import io
import json
import os
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hfgd.data.images import Pixels
from hfgd.errors import HfgdError
from hfgd.files import write_whole
from hfgd.predict.inputs import Failed
from hfgd.predict.places import Bucket, Folder, open_place
from hfgd.predict.shards import Shard

PARTS = "parts"
FACTS = ("label", "path", "height", "width", "seconds", "mean_confidence")
FLUSH = 200  # rows that wait for an address, which cannot be appended to
GROUP = 10_000  # rows of a Parquet row group


class Row(NamedTuple):
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


class Rows:
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

    def add(self, row: Row) -> None:
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
        lines = "".join(_line(entry) for entry in failed)
        self._place.write(f"{PARTS}/{self._shard.name}.failed.csv", _encoded(lines))
        say_ended(self._place, images, len(failed), self._shard)
        self.leave()

    def leave(self) -> None:
        """Let others work on the share."""
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            name = f"{PARTS}/{self._shard.name}.{time.time_ns()}.csv"
            self._place.write(name, _encoded(self._waiting))
            self._waiting = ""


def write_rows(place: Folder | Bucket, rows: Sequence[Row], failed: Sequence[Failed]) -> None:
    """Rows and failures of an engine, as files of their own: any number of workers may do it."""
    name = f"{PARTS}/{Shard().name}.{uuid.uuid4().hex}"
    if rows:
        place.write(f"{name}.csv", _encoded("".join(map(_dated, rows))))
    if failed:
        place.write(f"{name}.failed.csv", _encoded("".join(map(_line, failed))))


def say_ended(place: Folder | Bucket, images: int, failed: int, shard: Shard) -> None:
    """Say that a share has come to its end."""
    end = {"images": images, "failed": failed}
    place.write(f"{PARTS}/{shard.name}.json", json.dumps(end).encode())


def _dated(row: Row) -> str:
    return _line([*row.cells(), str(time.time_ns())])


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


def _line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([cell.replace("\n", " ") for cell in cells])
    return text.getvalue()


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


# ---- merging -----------------------------------------------------------------------------------


class Merged(NamedTuple):
    """What a merge found: label maps, failures, the file it wrote, shares that have not ended."""

    labels: int
    failed: int
    manifest: str
    missing: list[str]


def merge(out: str | Path) -> Merged:
    """Write ``manifest.parquet`` (``manifest.csv`` without pyarrow) and ``failed.csv`` of all shares.

    A row for each label map that is there, in order of its name. Raises HfgdError where ``out``
    holds no results.
    """
    place = open_place(out)
    settings = place.read("predict.json")
    if settings is None:
        raise HfgdError(f"'{out}' holds no results of 'hfgd predict'; there is nothing to merge.")
    classes = json.loads(settings)["classes"]
    with tempfile.TemporaryDirectory() as folder:
        table = sqlite3.connect(Path(folder) / "rows.db")
        try:
            _collect(place, table)
            labels = table.execute("SELECT count(*) FROM labels").fetchone()[0]
            header = [*FACTS, *(f"pixels.{name}" for name in classes)]
            rows = _rows(place, table, len(classes))
            manifest = _write(place, header, rows, Path(folder))
            failures = _failures(place, table)
        finally:
            table.close()
    place.write("failed.csv", _encoded(_line(["path", "reason"]) + "".join(failures)))
    return Merged(labels, len(failures), manifest, _unended(place))


def _collect(place: Folder | Bucket, table: sqlite3.Connection) -> None:
    table.execute("PRAGMA journal_mode = OFF")
    table.execute("CREATE TABLE labels (label TEXT PRIMARY KEY) WITHOUT ROWID")
    table.execute("CREATE TABLE rows (label TEXT PRIMARY KEY, at INTEGER, line TEXT) WITHOUT ROWID")
    names = (
        (_text(name.removeprefix("labels/")),)
        for name in place.names("labels")
        if not name.rpartition("/")[2].startswith(".")
    )
    table.executemany("INSERT OR IGNORE INTO labels VALUES (?)", names)
    for name in place.names(PARTS):
        if name.endswith(".csv") and not name.endswith(".failed.csv"):
            table.executemany(
                "INSERT INTO rows VALUES (?, ?, ?) ON CONFLICT (label) DO UPDATE SET "
                "at = excluded.at, line = excluded.line WHERE excluded.at >= at",
                _lines(place, name),
            )


def _lines(place: Folder | Bucket, name: str) -> Iterator[tuple[str, int, str]]:
    if isinstance(place, Folder):
        file: Any = place.path(name).open(encoding="utf-8", errors="surrogateescape", newline="")
    else:
        file = io.StringIO((place.read(name) or b"").decode(errors="surrogateescape"))
    with file:
        for cells in csv.reader(file):
            if len(cells) > len(FACTS) and cells[-1].isdecimal():  # else half a line
                yield _text(cells[0]), int(cells[-1]), _text(json.dumps(cells[:-1]))


def _text(text: str) -> str:
    """As SQLite takes it: file names that are no UTF-8 keep their bytes, escaped."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _rows(place: Folder | Bucket, table: sqlite3.Connection, classes: int) -> Iterator[list[str]]:
    query = "SELECT labels.label, line FROM labels LEFT JOIN rows USING (label) ORDER BY 1"
    for label, line in table.execute(query):
        cells = None if line is None else json.loads(line)
        if cells is None or len(cells) != len(FACTS) + classes:
            cells = _recovered(place, label, classes)
        yield cells


def _recovered(place: Folder | Bucket, label: str, classes: int) -> list[str]:
    """The row of a label map that has none: an address loses the last ones with a kill."""
    data = place.read(f"labels/{label}")
    if data is None or not label.endswith(".png"):
        return [label, *[""] * (len(FACTS) - 1 + classes)]
    labels = np.asarray(Image.open(io.BytesIO(data)))
    counts = count_classes(labels, classes)
    return Row(label, "", labels.shape[0], labels.shape[1], None, None, counts).cells()


def _write(
    place: Folder | Bucket, header: list[str], rows: Iterator[list[str]], folder: Path
) -> str:
    try:
        import pyarrow

        kind = "parquet" if pyarrow else ""
    except ImportError:
        kind = "csv"
    file, other = folder / f"manifest.{kind}", "csv" if kind == "parquet" else "parquet"
    if kind == "csv":
        with file.open("w", encoding="utf-8", errors="surrogateescape") as lines:
            lines.write(_line(header))
            lines.writelines(map(_line, rows))
    else:
        _write_parquet(file, header, rows)
    if isinstance(place, Folder):
        write_whole(place.path(file.name), lambda part: part.write_bytes(file.read_bytes()))
    else:
        place.write(file.name, file.read_bytes())
    place.remove(f"manifest.{other}")
    return f"{place.root}/{file.name}"


def _write_parquet(file: Path, header: list[str], rows: Iterator[list[str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: list[Any] = [pa.string()] * 2 + [pa.int64()] * 2 + [pa.float64()] * 2
    kinds += [pa.int64()] * (len(header) - len(FACTS))
    schema = pa.schema(list(zip(header, kinds, strict=True)))
    converters = [str, str, int, int, float, float, *[int] * (len(header) - len(FACTS))]
    with pq.ParquetWriter(file, schema) as writer:
        group: list[list[str]] = []

        def write() -> None:
            columns = [
                pa.array([convert(cell) if cell else None for cell in cells], kind)
                for cells, convert, kind in zip(zip(*group, strict=True), converters, kinds)  # noqa: B905
            ]
            if columns:
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            group.clear()

        for row in rows:
            group.append(row)
            if len(group) == GROUP:
                write()
        write()


def _failures(place: Folder | Bucket, table: sqlite3.Connection) -> list[str]:
    """Each failure once; not of what another call labelled since."""
    found: dict[str, str] = {}
    for name in place.names(PARTS):
        if name.endswith(".failed.csv"):
            text = (place.read(name) or b"").decode(errors="surrogateescape")
            for cells in csv.reader(io.StringIO(text)):
                path, reason, label = cells
                there = table.execute("SELECT 1 FROM labels WHERE label = ?", (_text(label),))
                if there.fetchone() is None:
                    found[path] = _line([path, reason])
    return [found[path] for path in sorted(found)]


def _unended(place: Folder | Bucket) -> list[str]:
    """The shares that have begun a common work and not ended it, or not begun."""
    names = {name.rpartition("/")[2] for name in place.names(PARTS)}
    ended = {name.removesuffix(".json") for name in names if name.endswith(".json")}
    counts = {int(name.split(".")[0].rpartition("-")[2]) for name in names}
    open_ = {n: [Shard(i, n) for i in range(n) if Shard(i, n).name not in ended] for n in counts}
    if not all(open_.values()):  # one way of sharing it out has come to its end
        return []
    return [str(shard) for count in sorted(open_) for shard in open_[count]]
