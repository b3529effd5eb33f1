"""Merging what the shares know into one manifest: by one process, at any time, in little memory, since
the rows pass through a temporary SQLite file."""

import io
import json
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hfgd.errors import HfgdError
from hfgd.files import write_whole
from hfgd.predict.image_rows import (
    FACTS,
    PARTS,
    ImageRow,
    cells_of,
    count_classes,
    encoded,
    is_sound,
    label_of_png,
    line_of,
    without_breaks,
)
from hfgd.predict.shards import Shard
from hfgd.predict.storage import Bucket, Folder, open_place
from hfgd.predict.writer import read_settings

GROUP = 4_000  # rows of a Parquet row group


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
    classes = read_settings(place).get("classes")
    if not classes or not all(isinstance(name, str) for name in classes):
        raise HfgdError(f"'{out}' holds no results of 'hfgd predict'; there is nothing to merge.")
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
    place.write("failed.csv", encoded(line_of(["path", "reason"]) + "".join(failures)))
    return Merged(labels, len(failures), manifest, _unended(place))


def _collect(place: Folder | Bucket, table: sqlite3.Connection) -> None:
    table.execute("PRAGMA journal_mode = OFF")
    table.execute("CREATE TABLE labels (label TEXT PRIMARY KEY, name BLOB) WITHOUT ROWID")
    table.execute("CREATE TABLE rows (label TEXT PRIMARY KEY, at INTEGER, line TEXT) WITHOUT ROWID")
    names = (
        (_text(name.removeprefix("labels/")), encoded(name))
        for name in place.names("labels")
        if not name.rpartition("/")[2].startswith(".")
    )
    table.executemany("INSERT OR IGNORE INTO labels VALUES (?, ?)", names)
    for name in place.names(PARTS):
        if name.endswith(".csv") and not name.endswith(".failed.csv"):
            table.executemany(
                "INSERT INTO rows VALUES (?, ?, ?) ON CONFLICT (label) DO UPDATE SET "
                "at = excluded.at, line = excluded.line WHERE excluded.at >= at",
                _lines(place, name),
            )


def _lines(place: Folder | Bucket, name: str) -> Iterator[tuple[str, int, str]]:
    if isinstance(place, Folder):
        file: Any = place.path(name).open(encoding="utf-8", errors="surrogateescape", newline="\n")
    else:
        file = io.StringIO((place.read(name) or b"").decode(errors="surrogateescape"), "\n")
    with file:
        for cells in map(cells_of, file):
            if len(cells) > len(FACTS) and is_sound(cells):  # else half a line, or not ours
                yield _text(cells[0]), int(cells[-1]), _text(json.dumps(cells[:-1]))


def _text(text: str) -> str:
    """As SQLite and Parquet take it: a line, and file names that are no UTF-8 with their bytes
    escaped."""
    return without_breaks(text).encode(errors="surrogateescape").decode(errors="backslashreplace")


def _rows(place: Folder | Bucket, table: sqlite3.Connection, classes: int) -> Iterator[list[str]]:
    query = "SELECT labels.label, name, line FROM labels LEFT JOIN rows USING (label) ORDER BY 1"
    for label, name, line in table.execute(query):
        cells = None if line is None else json.loads(line)
        if cells is None or len(cells) != len(FACTS) + classes:
            cells = _recovered(place, label, name.decode(errors="surrogateescape"), classes)
        yield [_text(cell) for cell in cells]


def _recovered(place: Folder | Bucket, label: str, name: str, classes: int) -> list[str]:
    """The row of a label map that has none: an address loses the last ones with a kill.

    A file that is no label map of ours has a row without facts.
    """
    labels = label_of_png(place.read(name)) if name.endswith(".png") else None
    if labels is None:
        return [label, *[""] * (len(FACTS) - 1 + classes)]
    counts = count_classes(labels, classes)
    return ImageRow(label, "", labels.shape[0], labels.shape[1], None, None, counts).cells()


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
            lines.write(line_of(header))
            lines.writelines(map(line_of, rows))
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
            for cells in map(cells_of, text.split("\n")):
                if len(cells) != 3:
                    continue  # not ours
                path, reason, label = cells
                there = table.execute("SELECT 1 FROM labels WHERE label = ?", (_text(label),))
                if there.fetchone() is None:
                    found[path] = line_of([path, reason])
    return [found[path] for path in sorted(found)]


def _unended(place: Folder | Bucket) -> list[str]:
    """The shares that have begun a common work and not ended it, or not begun."""
    names = {name.rpartition("/")[2] for name in place.names(PARTS)}
    ended = {name.removesuffix(".json") for name in names if name.endswith(".json")}
    found = (re.match(r"[0-9]{1,6}-of-([0-9]{1,6})\.", name) for name in names)
    counts = {int(match[1]) for match in found if match} - {0}
    open_ = {n: [Shard(i, n) for i in range(n) if Shard(i, n).name not in ended] for n in counts}
    if not all(open_.values()):  # one way of sharing it out has come to its end
        return []
    return [str(shard) for count in sorted(open_) for shard in open_[count]]
