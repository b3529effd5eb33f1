"""Hugging Face's parquet files: a column of images and one of label images, each of bytes and a path.

Class names come from an id2label.json beside them ({"0": "road", …}), or from a classes.txt of a name
a line; 255 is ignored where no name has it. Needs pyarrow.
"""

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from types import ModuleType
from typing import Any

from hfgd.data.archive import Packed, opened
from hfgd.data.classes import LabelMap
from hfgd.data.formats.base import (
    IGNORE,
    UNLABELLED,
    Annotated,
    AnnotationFormat,
    Annotations,
    class_names,
    read_ids,
    whole,
)
from hfgd.data.formats.tree import Tree, split_of_file, without_suffix
from hfgd.errors import HfgdError

IMAGES = ("image", "pixel_values", "img")
LABELS = ("label", "annotation", "mask", "labels", "segmentation_mask", "semantic_segmentation")
NOBODY = ("unlabeled", "unlabelled")
MAGIC = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"BM": ".bmp",
    b"RIFF": ".webp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


def sniff(tree: Tree) -> str | None:
    """Why it looks like a parquet data set."""
    found = tree.candidates(".parquet")
    return f"{tree.place(found[0])} is a parquet file" if found else None


def read(tree: Tree) -> Annotations:
    """Every row of every file; images and labels are read again when they are needed."""
    paths = tree.candidates(".parquet")
    if not paths:
        raise HfgdError(f"'{tree.root}' has no parquet file.")
    values, place = _values(tree)
    kept = {value: name for value, name in values.items() if name.lower() not in NOBODY}
    names = class_names((kept[value] for value in sorted(kept)), place)
    table = {value: index for index, value in enumerate(sorted(kept))}
    nobody = dict.fromkeys(values.keys() - kept.keys(), UNLABELLED)
    label_map = LabelMap({IGNORE: IGNORE} | table | nobody)
    items = []
    for path in paths:
        split = split_of_file(path)
        for number, (image, label) in enumerate(_rows(tree, path)):
            name = without_suffix(image.name)
            known = partial(read_ids, label_map, label, place)
            row = f"{tree.place(path)}: row {number}"
            items.append(Annotated(name, image, row, split=split, label=known, mask=label))
    return Annotations(names, items)


def _rows(tree: Tree, path: str) -> Iterator[tuple[Packed, Packed]]:
    """The image and the label of each row, as files that are read when they are needed."""
    place = tree.place(path)
    table = _open(tree, path)
    image, label = (_column(table, kinds, place) for kinds in (IMAGES, LABELS))
    row = 0
    stem = posixpath.splitext(posixpath.basename(path))[0]
    for group in range(table.num_row_groups):
        with _readable(place):
            cells = table.read_row_group(group, columns=[image]).column(0)
        for position, cell in enumerate(cells):
            where = f"{place}: row {row}"
            value = cell.as_py() or {}
            data, called = value.get("bytes"), value.get("path")
            if not data:
                raise HfgdError(f"{where}: '{image}' has no bytes; embed the images in the file.")
            suffix = next((s for magic, s in MAGIC.items() if data.startswith(magic)), None)
            if suffix is None:
                raise HfgdError(f"{where}: '{image}' is no PNG, JPEG, BMP, WebP or TIFF file.")
            name = without_suffix(called) if called else f"{stem}-{row:06d}"
            cells_of = partial(_cell, tree, path, group, position)
            yield (
                Packed(f"{where} ('{image}')", name + suffix, partial(cells_of, image)),
                Packed(f"{where} ('{label}')", f"{name}.png", partial(cells_of, label)),
            )
            row += 1


def _cell(tree: Tree, path: str, group: int, position: int, column: str) -> bytes:
    """The bytes of a cell; the last row groups that were read are kept."""
    value = _group(tree, path, group, column)[position].as_py() or {}
    data = value.get("bytes")
    if not isinstance(data, bytes):
        raise HfgdError(f"{tree.place(path)}: '{column}' has a cell without bytes.")
    return data


@lru_cache(maxsize=4)
def _group(tree: Tree, path: str, group: int, column: str) -> Any:
    table = _open(tree, path)
    with _readable(tree.place(path)):
        return table.read_row_group(group, columns=[column]).column(0)


def _column(table: Any, known: tuple[str, ...], place: str) -> str:
    """The one column of images, or of labels: a struct with 'bytes'."""
    fields = {field.name: str(field.type) for field in table.schema_arrow}
    found = [name for name in known if name in fields]
    if len(found) != 1:
        raise HfgdError(
            f"{place} has {len(found)} columns named {' or '.join(known[:3])} (its columns: "
            f"{', '.join(fields)}); rename the one that counts."
        )
    if "bytes: binary" not in fields[found[0]] and "bytes: large_binary" not in fields[found[0]]:
        raise HfgdError(
            f"{place}: the column '{found[0]}' is {fields[found[0]]}, not images as bytes and path."
        )
    return found[0]


def _open(tree: Tree, path: str) -> Any:
    arrow = _pyarrow()
    source = opened(tree.source(path))
    with _readable(tree.place(path)):
        return arrow.ParquetFile(source)


@contextmanager
def _readable(place: str) -> Iterator[None]:
    """One sentence for a damaged file: its pages are looked at when they are read."""
    from pyarrow.lib import ArrowException

    try:
        yield
    except (ArrowException, OSError, ValueError, RuntimeError, MemoryError) as error:
        said = " ".join(str(error).split())[:120]
        raise HfgdError(f"{place} is no parquet file, is cut off or damaged ({said}).") from error


def _values(tree: Tree) -> tuple[dict[int, str], str]:
    """Names by value in the label images, and the file that says so."""
    for path in tree.find(r"id2label\.json"):
        place = tree.place(path)
        data = tree.json(path)
        if not isinstance(data, dict) or not data:
            raise HfgdError(f'{place} must be of the form {{"0": "road", "1": "car"}}.')
        return {whole(key, place, "id"): str(name).strip() for key, name in data.items()}, place
    for path in tree.find(r"classes\.txt"):
        lines = [line.strip() for line in tree.text(path).splitlines() if line.strip()]
        return dict(enumerate(lines)), tree.place(path)
    raise HfgdError(
        f"'{tree.root}' does not say what the values in its label images mean; put an "
        'id2label.json like {"0": "road", "1": "car"} beside the parquet files.'
    )


def _pyarrow() -> ModuleType:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise HfgdError(
            "parquet files need pyarrow, which is not installed; pip install 'hfgd[import]'."
        ) from error
    module: ModuleType = parquet
    return module


PARQUET = AnnotationFormat(
    "parquet", "Hugging Face parquet: images and labels as bytes", sniff, read
)
