"""Roboflow's "Semantic Segmentation Masks": in each split x.jpg, x_mask.png and _classes.csv.

Read against two public exports (structure only): ``train/_classes.csv`` of
buinghia3101/DHCN_dataset.v1i.png-mask-semantic and of kainatzahra98/Semantic-Seg-Dataset.
"""

import csv
import posixpath
from functools import partial

from hfgd.data.classes import LabelMap
from hfgd.data.formats.base import (
    IGNORE,
    UNLABELLED,
    Annotated,
    AnnotationFormat,
    Annotations,
    class_names,
    counted,
    read_ids,
    whole,
)
from hfgd.data.formats.tree import Tree, split_of_folders
from hfgd.errors import HfgdError

TABLE, END = "_classes.csv", "_mask.png"
BACKGROUND = "background"


def sniff(tree: Tree) -> str | None:
    """Why it looks like Roboflow's masks."""
    for path in tree.find(r"_classes\.csv"):
        if tree.text(path).lower().startswith("pixel value"):
            return f"{tree.place(path)} lists pixel values and classes, beside *{END}"
    return None


def read(tree: Tree) -> Annotations:
    """Every pair of x.jpg and x_mask.png; the value of 'background' is unlabelled."""
    tables = tree.find(r"_classes\.csv")
    if not tables:
        raise HfgdError(f"'{tree.root}' has no {TABLE}; export 'Semantic Segmentation Masks'.")
    values = parse_table(tree.text(tables[0]), tree.place(tables[0]))
    for path in tables[1:]:
        if parse_table(tree.text(path), tree.place(path)) != values:
            raise HfgdError(
                f"{tree.place(tables[0])} and {tree.place(path)} list different classes."
            )
    place = tree.place(tables[0])
    names = class_names((n for n in values.values() if n != BACKGROUND), place)
    index = {name: number for number, name in enumerate(names)} | {BACKGROUND: UNLABELLED}
    label_map = LabelMap({IGNORE: IGNORE} | {value: index[name] for value, name in values.items()})
    items = []
    for mask in (path for path in tree.images if path.endswith(END)):
        source = tree.source(mask)
        folder, name = posixpath.dirname(mask), mask.removesuffix(END)
        image = tree.image(posixpath.basename(name), tree.place(mask), (folder,), stem=True)
        items.append(
            Annotated(
                posixpath.basename(name),
                tree.source(image),
                tree.place(mask),
                split=split_of_folders(mask),
                label=partial(read_ids, label_map, source, place),
                mask=source,
            )
        )
    if not items:
        raise HfgdError(f"'{tree.root}' has {TABLE} and no *{END}.")
    bare = len(tree.images) - 2 * len(items)
    notes = [f"{counted(bare, 'image')} without a mask left out"] if bare > 0 else []
    unlabelled = BACKGROUND if BACKGROUND in values.values() else "ignore"
    return Annotations(names, items, unlabelled=unlabelled, notes=notes)


def parse_table(text: str, place: str) -> dict[int, str]:
    """'Pixel Value, Class' and lines of both → names by pixel value."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
    values: dict[int, str] = {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != 2:
            raise HfgdError(f"{place}: line {number} has {len(row)} columns instead of 2.")
        value = whole(row[0], f"{place}: line {number}", "Pixel Value")
        if value in values or not 0 <= value <= 255:
            raise HfgdError(
                f"{place}: line {number}: the pixel value {value} is listed twice or no byte."
            )
        values[value] = row[1]
    class_names(values.values(), place)
    return values


ROBOFLOW = AnnotationFormat("roboflow", "Roboflow PNG masks with _classes.csv", sniff, read)
