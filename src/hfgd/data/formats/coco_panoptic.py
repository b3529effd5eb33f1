"""COCO panoptic: a JSON file with segments, and a PNG a picture whose colours are their ids.

Read against the published format and (structure only) datumaro's
``tests/assets/coco_dataset/coco_panoptic`` (openvinotoolkit/datumaro).
"""

import posixpath
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from hfgd.data.archive import Source
from hfgd.data.formats.base import (
    UNLABELLED,
    Annotated,
    AnnotationFormat,
    Annotations,
    counted,
    size_of,
    take,
    whole,
)
from hfgd.data.formats.coco import Categories, images_of
from hfgd.data.formats.tree import LOOKED_AT, Tree, clean, split_of_file, without_suffix
from hfgd.data.images import Pixels
from hfgd.data.label_files import read_label
from hfgd.errors import HfgdError


def sniff(tree: Tree) -> str | None:
    """Why it looks like COCO panoptic."""
    found = _files(tree)
    return f"{tree.place(found[0])} has annotations with 'segments_info'" if found else None


def read(tree: Tree) -> Annotations:
    """Every annotated picture; pixels of id 0 are unlabelled."""
    files = _files(tree)
    if tree.broken or not files:
        raise tree.broken or HfgdError(
            f"'{tree.root}' has no JSON file whose annotations have 'segments_info'."
        )
    table, items, crowds = Categories(), [], 0
    for path in files:
        data, place = tree.json(path), tree.place(path)
        table.add(data, place)
        images = images_of(data, place)
        for record in take(data, "annotations", list, place):
            number = take(record, "image_id", (int, str), f"{place}: an annotation")
            where = f"{place}: the annotation of image {number}"
            if number not in images:
                raise HfgdError(f"{where}: that image_id is not in 'images'.")
            segments = take(record, "segments_info", list, where)
            crowds += sum(isinstance(s, dict) and s.get("iscrowd") == 1 for s in segments)
            items.append(_item(tree, path, images[number], record, table))
    notes = []
    if crowds:
        notes.append(f"{counted(crowds, 'segment')} of crowds (iscrowd) count as their class")
    return Annotations(table.names, items, table.colours, notes=notes)


def _item(
    tree: Tree, path: str, image: dict[str, Any], record: dict[str, Any], table: Categories
) -> Annotated:
    place = tree.place(path)
    where = f"{place}: image {image['id']}"
    folder, stem = posixpath.dirname(path), posixpath.splitext(posixpath.basename(path))[0]
    png = _png(tree, take(record, "file_name", str, where), folder, stem, where)
    classes: dict[int, int] = {}
    for segment in record["segments_info"]:
        number = whole(take(segment, "id", object, f"{where}: a segment"), where, "id")
        if number in classes:
            raise HfgdError(f"{where}: the segment {number} is listed twice.")
        classes[number] = table.of(segment.get("category_id"), f"{where}: segment {number}")
    split = split_of_file(path)
    found = tree.image(image["file_name"], where, (folder,), split, frozenset({stem}))
    return Annotated(
        without_suffix(image["file_name"], split),
        tree.source(found),
        where,
        size_of(image, "height", "width", where),
        split,
        label=_label(tree.source(png), classes, where),
        mask=tree.source(png),
    )


def _png(tree: Tree, name: str, folder: str, stem: str, where: str) -> str:
    """The segments' PNG: in the folder of the JSON's name, beside it, or anywhere, once."""
    for path in (f"{folder}/{stem}/{name}", f"{folder}/{name}"):
        if clean(path) in tree.files:
            return clean(path)
    found = [path for path in tree.files if f"/{path}".endswith(f"/{stem}/{clean(name)}")]
    if len(found) == 1:
        return found[0]
    raise HfgdError(
        f"{where}: there is no '{stem}/{name}' below '{tree.root}'; the PNG files of the "
        "segments belong in a folder with the name of the JSON file."
    )


def _label(source: Source, classes: dict[int, int], where: str) -> Callable[[], Pixels]:
    return partial(segments_to_classes, source, classes, where)


def segments_to_classes(source: Source, classes: dict[int, int], where: str) -> Pixels:
    """The PNG (id = R + 256·G + 65536·B) as class indices; ids that are not listed are refused."""
    packed = read_label(source, colours=True)  # r·65536 + g·256 + b
    ids = (packed >> 16) | (packed & 0xFF00) | (packed & 0xFF) << 16
    values, places = np.unique(ids, return_inverse=True)
    strange = [int(v) for v in values if v != 0 and int(v) not in classes]
    if strange:
        raise HfgdError(
            f"{where}: '{source}' has pixels of the segment {strange[0]}, which 'segments_info' "
            "does not list."
        )
    table = np.array([classes.get(int(v), UNLABELLED) for v in values], dtype=np.uint8)
    return table[places].reshape(ids.shape)


def _files(tree: Tree) -> list[str]:
    found = []
    for path in tree.candidates(".json")[:LOOKED_AT]:
        data = tree.peek(path)
        if isinstance(data, dict) and isinstance(data.get("annotations"), list):
            first = data["annotations"][:1]
            if first and isinstance(first[0], dict) and "segments_info" in first[0]:
                found.append(path)
    return found


COCO_PANOPTIC = AnnotationFormat("coco_panoptic", "COCO panoptic: PNG and JSON", sniff, read)
