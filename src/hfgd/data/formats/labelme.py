"""LabelMe: a JSON file beside each image, with polygons, rectangles, circles and masks.

Read against wkentaro/labelme: ``labelme/_label_file.py``, ``labelme/utils/shape.py`` and
``examples/primitives/primitives.json`` (structure only). LabelMe shows images upright by EXIF.
"""

import base64
import io
import math
import posixpath
from collections import Counter
from functools import partial
from typing import Any

import numpy as np

from hfgd.data.archive import Packed, Source
from hfgd.data.formats.base import (
    IGNORE,
    IGNORED,
    UNLABELLED,
    Annotated,
    AnnotationFormat,
    Annotations,
    Shape,
    class_names,
    counted,
    points,
    shown,
    size_of,
    take,
)
from hfgd.data.formats.regions import Ellipse, Mask, Patch, Polygons, Region, box, refuse_large
from hfgd.data.formats.tree import Tree, split_of_folders, without_suffix
from hfgd.data.images import BROKEN, open_image
from hfgd.errors import HfgdError

BACKGROUND = "_background_"
WITHOUT_AREA = ("line", "linestrip", "point", "points")


def sniff(tree: Tree) -> str | None:
    """Why it looks like LabelMe."""
    for path in tree.candidates(".json")[:20]:
        if _is_labelme(tree.peek(path)):
            return f"{tree.place(path)} has 'shapes' and 'imagePath'"
    return None


def read(tree: Tree) -> Annotations:
    """Every JSON file that is LabelMe's; classes by labels.txt, or by their names in order."""
    records = ((path, tree.json(path, keep=False)) for path in tree.candidates(".json"))
    mine = [(path, _slim(data)) for path, data in records if _is_labelme(data)]
    if not mine:
        raise HfgdError(f"'{tree.root}' has no JSON file with 'shapes' and 'imagePath'.")
    names = _classes(tree, mine)
    index = {name: number for number, name in enumerate(names)}
    index |= dict.fromkeys(IGNORED, IGNORE) | {BACKGROUND: UNLABELLED}
    flat = Counter[str]()
    items = [_item(tree, path, data, index, flat) for path, data in mine]
    notes = []
    if flat:
        kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(flat.items()))
        notes.append(f"{counted(flat.total(), 'shape')} without an area left out ({kinds})")
    annotated = {str(item.image) for item in items}
    bare = [path for path in tree.images if str(tree.source(path)) not in annotated]
    if bare and tree.given is None:
        notes.append(
            f"{counted(len(bare), 'image')} without a JSON file left out, '{bare[0]}' first"
        )
    background = "background" if any(_has(data, BACKGROUND) for _, data in mine) else "ignore"
    return Annotations(names, items, unlabelled=background, notes=notes)


def _item(tree: Tree, path: str, data: Any, index: dict[str, int], flat: Counter[str]) -> Annotated:
    place = tree.place(path)
    shapes = []
    for number, record in enumerate(data["shapes"]):
        where = f"{place}: shape {number}"
        label = take(record, "label", str, where).strip()
        if label not in index:
            raise HfgdError(f"{where}: the label '{label}' is not in labels.txt; add it there.")
        region = _region(record, where)
        if region is None:
            flat[record["shape_type"]] += 1
            continue
        shapes.append(Shape(index[label], region, where))
    split = split_of_folders(path)
    return Annotated(
        without_suffix(path, split),
        _image(tree, path, data),
        place,
        size_of(data, "imageHeight", "imageWidth", place),
        split,
        tuple(shapes),
    )


def _region(record: Any, place: str) -> Region | None:
    """A shape as a region; None for one without an area."""
    kind = record.get("shape_type") or "polygon"
    if kind in WITHOUT_AREA:
        return None
    at = points(record.get("points"), place, "points")
    if kind in ("polygon", "oriented_rectangle"):
        return Polygons((at,))
    if kind not in ("rectangle", "circle", "mask"):
        raise HfgdError(
            f"{place}: the shape_type {shown(kind)} is not known; draw it as a polygon, "
            "rectangle, circle or mask."
        )
    if len(at) != 4:
        raise HfgdError(f"{place}: a {kind} has two points, not {len(at) // 2}.")
    if kind == "rectangle":
        return box(*at)
    if kind == "circle":
        radius = math.hypot(at[2] - at[0], at[3] - at[1])
        return Ellipse(at[0], at[1], radius, radius)
    left, top = round(min(at[0], at[2])), round(min(at[1], at[3]))
    size = round(abs(at[3] - at[1])) + 1, round(abs(at[2] - at[0])) + 1
    text = take(record, "mask", str, place)
    return Patch(partial(_mask, text, size), left, top, clip=True)


def _mask(text: str, size: tuple[int, int], height: int, width: int) -> Mask:
    """A base64 PNG of the size of its box, for an image of that height and width."""
    refuse_large(size, height, width)
    try:
        with open_image(io.BytesIO(base64.b64decode(text, validate=True)), ("PNG",)) as picture:
            found = (picture.height, picture.width)
            if found != size:
                raise HfgdError(
                    f"'mask' is {found}, and its two points span {size} (height, width)."
                )
            return np.asarray(picture.convert("L")) > 0
    except BROKEN as error:  # binascii.Error is a ValueError
        raise HfgdError(f"'mask' is no PNG in base64 ({error}).") from error


def _image(tree: Tree, path: str, data: Any) -> Source:
    """The image that imagePath names, else the one of the JSON's name, else the embedded copy."""
    place, folder = tree.place(path), posixpath.dirname(path)
    stem = posixpath.splitext(path)[0]
    named = take(data, "imagePath", str, place)
    try:
        return tree.source(tree.image(named, place, (folder,)))
    except HfgdError:
        for other in tree.images:
            if posixpath.splitext(other)[0] == stem:
                return tree.source(other)
        start = data["imageData"]
        if start is None:
            raise
    name = posixpath.basename(stem) + (".png" if start.startswith("iVBOR") else ".jpg")
    return Packed(f"{place} (imageData)", name, partial(_embedded, tree, path))


def _embedded(tree: Tree, path: str) -> bytes:
    place = tree.place(path)
    try:
        text = take(tree.json(path, keep=False), "imageData", str, place)
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error is one; text beyond ASCII another
        raise HfgdError(f"{place}: 'imageData' is no base64 ({error}).") from error


def _classes(tree: Tree, files: list[tuple[str, Any]]) -> list[str]:
    listed = tree.find(r"labels\.txt")
    if listed:
        names = [line.strip() for line in tree.text(listed[0]).splitlines() if line.strip()]
        place = tree.place(listed[0])
    else:
        place = f"'{tree.root}'"
        names = sorted(
            {
                take(shape, "label", str, f"{tree.place(path)}: a shape").strip()
                for path, data in files
                for shape in data["shapes"]
            }
        )
    return class_names((n for n in names if n not in (*IGNORED, BACKGROUND)), place)


def _slim(data: dict[str, Any]) -> dict[str, Any]:
    """A file without its copy of the image, of which only the first bytes are kept."""
    embedded = data.get("imageData")
    return data | {"imageData": embedded[:8] if isinstance(embedded, str) else None}


def _has(data: Any, label: str) -> bool:
    return any(str(shape["label"]).strip() == label for shape in data["shapes"])


def _is_labelme(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("shapes"), list) and "imagePath" in data


LABELME = AnnotationFormat(
    "labelme", "LabelMe JSON: polygons, rectangles, circles, masks", sniff, read
)
