"""CVAT's "CVAT for images 1.1": one XML file with polygons, boxes, ellipses and masks for each image.

Read against cvat-ai/cvat, ``site/content/en/docs/manual/advanced/xml_format.md``. Shapes are painted
in the order of their z_order. A mask's run lengths go along the rows of its box, background first.
"""

import math
import posixpath
from collections import Counter
from functools import partial
from xml.etree.ElementTree import Element

import numpy as np

from hfgd.data.classes import Rgb
from hfgd.data.formats.base import (
    Annotated,
    AnnotationFormat,
    Annotations,
    Shape,
    class_names,
    counted,
    shown,
    size_of,
    whole,
)
from hfgd.data.formats.regions import Ellipse, Mask, Patch, Polygons, Region, refuse_large
from hfgd.data.formats.tree import Tree, split_of_word, without_suffix
from hfgd.errors import HfgdError
from hfgd.parse import parse_xml

AREAS = ("polygon", "box", "ellipse", "mask")
NO_AREAS = ("polyline", "points", "cuboid", "skeleton", "tag")  # kinds of shapes and of labels
LOOKED_AT = 20


def sniff(tree: Tree) -> str | None:
    """Why it looks like CVAT's XML of images."""
    found = _files(tree)
    return f"{tree.place(found[0])} has images with shapes, in CVAT's XML" if found else None


def read(tree: Tree) -> Annotations:
    """Every image of the files, with its shapes in the order of z_order."""
    files = _files(tree)
    if not files:
        raise HfgdError(f"'{tree.root}' has no XML file with <annotations> and <image>, as CVAT's.")
    colours: dict[str, Rgb] = {}
    listed: dict[str, None] = {}  # labels in their order
    pointed: set[str] = set()
    found: list[tuple[str, str, Element]] = []
    for path in files:
        place = tree.place(path)
        root = parse_xml(tree.text(path), place)
        if root.find("track") is not None:
            raise HfgdError(
                f"{place} is 'CVAT for video', whose tracks are not read; export 'CVAT for images "
                "1.1' or 'Segmentation mask 1.1'."
            )
        for label in root.iterfind("meta//labels/label"):
            name = (label.findtext("name") or "").strip()
            if name:
                listed.setdefault(name)
                if label.findtext("type") in NO_AREAS:
                    pointed.add(name)  # skeletons list their points as labels too
                colours |= _colour(name, label.findtext("color"))
        found += [(path, place, image) for image in root.iterfind("image")]
    used = [s.get("label", "").strip() for *_, image in found for s in image if s.tag in AREAS]
    if listed and set(used) - listed.keys():
        strange = sorted(set(used) - listed.keys())[0]
        raise HfgdError(
            f"{tree.place(files[0])}: the label {shown(strange)} is not in its <labels>."
        )
    kept = [name for name in listed if name not in pointed or name in used]
    names = class_names(kept or listed or sorted(set(used)), tree.place(files[0]))
    index = {name: number for number, name in enumerate(names)}
    left_out = Counter(
        shape.tag for *_, image in found for shape in image if shape.tag not in AREAS
    )
    items = [_item(tree, path, place, image, index) for path, place, image in found]
    notes = [
        f"{counted(number, 'shape')} of the kind '{kind}', which has no area, left out"
        for kind, number in sorted(left_out.items())
    ]
    return Annotations(names, items, colours, notes=notes)


def _item(tree: Tree, path: str, place: str, image: Element, index: dict[str, int]) -> Annotated:
    name = image.get("name", "")
    where = f"{place}: image {shown(name)}"
    if not name:
        raise HfgdError(f"{place} has an <image> without a name.")
    size = size_of(dict(image.attrib), "height", "width", where)
    if size is None:
        raise HfgdError(f"{where} states no width and height.")
    folder, subset = posixpath.dirname(path), image.get("subset", "")
    split = split_of_word(subset) if subset else None
    near = (folder, f"{folder}/images", f"{folder}/images/{subset}")
    shapes = [
        (
            whole(shape.get("z_order", "0"), f"{where}: {shape.tag} {number}", "z_order"),
            Shape(
                index[shape.get("label", "").strip()],
                _region(shape, size, f"{where}: {shape.tag} {number}"),
                f"{where}: {shape.tag} {number}",
            ),
        )
        for number, shape in enumerate(image, 1)
        if shape.tag in AREAS
    ]
    shapes.sort(key=lambda pair: pair[0])
    return Annotated(
        without_suffix(name, split),
        tree.source(tree.image(name, where, near, split)),
        where,
        size,
        split,
        tuple(shape for _, shape in shapes),
        unannotated=not shapes,
    )


def _region(shape: Element, size: tuple[int, int], where: str) -> Region:
    if shape.tag == "polygon":
        points = [pair.split(",") for pair in shape.get("points", "").split(";") if pair.strip()]
        if len(points) < 3 or any(len(pair) != 2 for pair in points):
            raise HfgdError(f"{where}: 'points' is {shown(shape.get('points'))}, not 'x,y;x,y;…'.")
        return Polygons((tuple(_float(text, where, "points") for pair in points for text in pair),))
    if shape.tag == "box":
        left, top, right, bottom = (
            _number(shape, key, where) for key in ("xtl", "ytl", "xbr", "ybr")
        )
        return Polygons((_turned(left, top, right, bottom, _angle(shape, where)),))
    if shape.tag == "ellipse":
        x, y, rx, ry = (_number(shape, key, where) for key in ("cx", "cy", "rx", "ry"))
        return Ellipse(x, y, rx, ry, _angle(shape, where))
    left, top, width, height = (
        whole(shape.get(key), where, key) for key in ("left", "top", "width", "height")
    )
    text = shape.get("rle", "")
    runs = [word.strip() for word in text.split(",") if word.strip()]
    if min(width, height) < 1 or not all(run.isdecimal() and len(run) < 16 for run in runs):
        raise HfgdError(f"{where}: 'rle' is {shown(text)}, not whole numbers of a box.")
    return Patch(partial(_decode, tuple(map(int, runs)), height, width), left, top)


def _decode(runs: tuple[int, ...], height: int, width: int, whole_h: int, whole_w: int) -> Mask:
    """Runs along the rows of a box, background first, as bool (height, width)."""
    refuse_large((height, width), whole_h, whole_w)
    if sum(runs) != height * width:
        raise HfgdError(f"its run lengths cover {sum(runs)} pixels of a box of {height}×{width}.")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(height, width)


def _turned(
    left: float, top: float, right: float, bottom: float, angle: float
) -> tuple[float, ...]:
    """The corners of a box turned about its centre, clockwise, as CVAT turns it."""
    x, y = (left + right) / 2, (top + bottom) / 2
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    turned = [
        (x + (a - x) * cos - (b - y) * sin, y + (a - x) * sin + (b - y) * cos) for a, b in corners
    ]
    return tuple(number for corner in turned for number in corner)


def _angle(shape: Element, where: str) -> float:
    return _float(shape.get("rotation", "0"), where, "rotation")


def _number(shape: Element, key: str, where: str) -> float:
    return _float(shape.get(key), where, key)


def _float(text: str | None, where: str, key: str) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise HfgdError(f"{where}: '{key}' is {shown(text)}, not a number.")
    return number


def _colour(name: str, text: str | None) -> dict[str, Rgb]:
    try:
        value = int((text or "").strip().removeprefix("#"), 16)
    except ValueError:
        return {}
    known = 0 <= value < 1 << 24
    return {name: (value >> 16, value >> 8 & 255, value & 255)} if known else {}


def _files(tree: Tree) -> list[str]:
    """XML files whose root is <annotations>, not VOC's boxes, whose root is <annotation>."""
    found = []
    for path in tree.candidates(".xml")[:LOOKED_AT]:
        head = tree.text(path)[:4096]
        if "<annotations" in head and ("<version>" in head or "<meta>" in head or "<image" in head):
            found.append(path)
    return found


CVAT_IMAGES = AnnotationFormat("cvat_images", "CVAT for images 1.1: annotations.xml", sniff, read)
