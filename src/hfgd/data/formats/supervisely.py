"""Supervisely: meta.json with the classes, and in each data set img/x.jpg with ann/x.jpg.json.

Polygons with holes, bitmaps (base64 of a zlib-packed PNG, and the corner where it lies), rectangles.
Points are pixels, not corners of pixels: their centres are meant, and rectangles hold both ends.
Read against supervisely/docs ("Supervisely annotation format", structure only).
"""

import base64
import io
import posixpath
import zlib
from collections import Counter
from functools import partial
from typing import Any

import numpy as np

from hfgd.data.classes import Rgb
from hfgd.data.formats.base import (
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
    whole,
)
from hfgd.data.formats.regions import Mask, Patch, Polygons, Region, box, refuse_large
from hfgd.data.formats.tree import Tree, split_of_folders, without_suffix
from hfgd.data.images import BROKEN, IMAGE_SUFFIXES, open_image
from hfgd.errors import HfgdError

WITHOUT_AREA = ("point", "line", "polyline", "graph", "cuboid", "cuboid_2d")


def sniff(tree: Tree) -> str | None:
    """Why it looks like Supervisely."""
    meta = _meta(tree)
    if meta is None or not _annotations(tree):
        return None
    return f"{tree.place(meta)} lists classes with 'title', and there is a folder 'ann'"


def read(tree: Tree) -> Annotations:
    """Every annotated image of the project."""
    meta = _meta(tree)
    files = _annotations(tree)
    if meta is None or not files:
        missing = "meta.json with 'classes'" if meta is None else "ann/*.json"
        raise tree.broken or HfgdError(f"'{tree.root}' has no {missing}; is it Supervisely's?")
    place = f"{tree.place(meta)}: classes"
    records = [
        record
        for record in take(tree.json(meta), "classes", list, tree.place(meta))
        if take(record, "title", str, place) and record.get("shape") not in WITHOUT_AREA
    ]
    names = class_names((take(record, "title", str, place) for record in records), place)
    index = {name: number for number, name in enumerate(names)}
    colours = {
        name: _colour(record["color"], place)
        for name, record in zip(names, records, strict=True)
        if record.get("color")
    }
    flat = Counter[str]()
    items = [_item(tree, path, index, flat) for path in files]
    notes = []
    if flat:
        kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(flat.items()))
        notes.append(f"{counted(flat.total(), 'object')} without an area left out ({kinds})")
    return Annotations(names, items, colours, notes=notes)


def _item(tree: Tree, path: str, index: dict[str, int], flat: Counter[str]) -> Annotated:
    data, place = tree.json(path, keep=False), tree.place(path)
    shapes = []
    for number, record in enumerate(take(data, "objects", list, place)):
        number = record.get("id", number) if isinstance(record, dict) else number
        where = f"{place}: object {shown(number)}"
        kind = take(record, "geometryType", str, where)
        if kind in WITHOUT_AREA:
            flat[kind] += 1
            continue
        title = take(record, "classTitle", str, where).strip()
        if title not in index:
            raise HfgdError(f"{where}: the class '{title}' is not in meta.json.")
        shapes.append(Shape(index[title], _region(record, kind, where), where))
    folder = posixpath.dirname(posixpath.dirname(path))
    called = posixpath.basename(path).removesuffix(".json")
    stem = posixpath.splitext(called)[1].lower() not in IMAGE_SUFFIXES
    image = tree.image(called, place, (f"{folder}/img", folder), stem=stem)
    name = called if stem else without_suffix(called)
    split = split_of_folders(path)
    prefix = "" if split or not folder else f"{posixpath.basename(folder)}/"
    size = size_of(take(data, "size", dict, place), "height", "width", place)
    return Annotated(prefix + name, tree.source(image), place, size, split, tuple(shapes))


def _region(record: Any, kind: str, place: str) -> Region:
    if kind == "bitmap":
        bitmap = take(record, "bitmap", dict, place)
        origin = take(bitmap, "origin", list, place)
        if len(origin) != 2:
            raise HfgdError(f"{place}: 'origin' is {shown(origin)}, not [x, y].")
        left, top = (whole(value, place, "origin") for value in origin)
        return Patch(partial(decode_bitmap, take(bitmap, "data", str, place)), left, top)
    if kind not in ("polygon", "rectangle"):
        raise HfgdError(f"{place}: the geometryType {shown(kind)} is not known.")
    at = take(record, "points", dict, place)
    outside = points(take(at, "exterior", list, place), place, "exterior")
    if kind == "rectangle":
        if len(outside) != 4:
            raise HfgdError(f"{place}: a rectangle has two points, not {len(outside) // 2}.")
        across, down = sorted(outside[::2]), sorted(outside[1::2])
        return box(across[0], down[0], across[1] + 1, down[1] + 1)
    inside = take(at, "interior", list, place) if at.get("interior") is not None else []
    holes = [points(hole, place, "interior") for hole in inside]
    return Polygons((_centres(outside),), tuple(_centres(hole) for hole in holes))


def _centres(ring: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(value + 0.5 for value in ring)


def decode_bitmap(text: str, height: int, width: int) -> Mask:
    """base64 → zlib → PNG → the pixels that are not transparent, or not 0 where nothing is.

    ``height`` and ``width`` are the image's: the PNG may not be far larger, unpacked or drawn.
    """
    most = 1_000_000 + 64 * height * width  # bytes of a PNG that is hardly packed
    try:
        unpacker = zlib.decompressobj()
        packed = unpacker.decompress(base64.b64decode(text, validate=True), most)
        if unpacker.unconsumed_tail:
            raise HfgdError(f"'bitmap.data' unpacks to more than {most:,} bytes.")
        with open_image(io.BytesIO(packed), ("PNG",)) as picture:
            refuse_large((picture.height, picture.width), height, width)
            if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA"):
                return np.asarray(picture.convert("RGBA"))[..., 3] > 0
            return np.asarray(picture.convert("L")) > 0
    except BROKEN as error:  # binascii.Error is a ValueError
        raise HfgdError(
            f"'bitmap.data' is no base64 text of a zlib-packed PNG ({error})."
        ) from error


def _colour(text: str, place: str) -> Rgb:
    try:
        red, green, blue = bytes.fromhex(text.lstrip("#"))
    except (ValueError, AttributeError) as error:
        raise HfgdError(f"{place}: 'color' is {shown(text)}, not '#rrggbb'.") from error
    return red, green, blue


def _meta(tree: Tree) -> str | None:
    for path in tree.find(r"meta\.json"):
        data = tree.peek(path)
        if isinstance(data, dict) and isinstance(data.get("classes"), list):
            return path
    return None


def _annotations(tree: Tree) -> list[str]:
    return tree.find(r"ann/[^/]+\.json")


SUPERVISELY = AnnotationFormat("supervisely", "Supervisely JSON: polygons, bitmaps", sniff, read)
