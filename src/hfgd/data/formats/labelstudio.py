"""Label Studio's JSON export: brushes (RLE), polygons, rectangles, ellipses.

Coordinates are percent of the unrotated image, also where ``image_rotation`` is not 0, and images
are shown upright by EXIF. A brush is a bit stream of four values a pixel (RGBA), of which the last
counts. Read against HumanSignal/label-studio-converter: ``label_studio_converter/brush.py`` and
``tests/data/test_converter_data/data_polygon.json`` (structure only).
"""

import math
import posixpath
import re
from collections import Counter
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np

from hfgd.data.formats.base import (
    Annotated,
    AnnotationFormat,
    Annotations,
    Shape,
    class_names,
    counted,
    numbers,
    points,
    shown,
    size_of,
    take,
)
from hfgd.data.formats.regions import Ellipse, Mask, Patch, Polygons, Region
from hfgd.data.formats.tree import Tree, without_suffix
from hfgd.data.images import IMAGE_SUFFIXES
from hfgd.errors import HfgdError

LABELS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels", "labels")
NO_AREAS = ("keypointlabels", "keypoint", "videorectangle", "timelinelabels", "ocrlabels")
UNREAD = ("bitmask", "bitmasklabels", "vectorlabels", "vector")  # areas that are not read
CHANNELS = 4


def sniff(tree: Tree) -> str | None:
    """Why it looks like Label Studio."""
    found = _files(tree)
    return (
        f"{tree.place(found[0])} is a list of tasks with 'annotations' and 'data'"
        if found
        else None
    )


def read(tree: Tree) -> Annotations:
    """Every annotated task; classes are the labels that occur, in alphabetical order."""
    files = _files(tree)
    if tree.broken or not files:
        raise tree.broken or HfgdError(
            f"'{tree.root}' has no JSON file with a list of tasks that have 'annotations' and "
            "'data'; export 'JSON' (not JSON-MIN) from Label Studio."
        )
    notes = Counter[tuple[str, str]]()
    found = []
    for path in files:
        for position, task in enumerate(tree.json(path)):
            number = task.get("id", position) if isinstance(task, dict) else position
            place = f"{tree.place(path)}: task {shown(number)}"
            if not isinstance(task, dict):
                raise HfgdError(f"{place} is {shown(task)}, not a record.")
            annotation = _annotation(task, place)
            if annotation is None:
                notes["task", "without an annotation"] += 1
                continue
            regions = _regions(annotation, place, notes)
            if not regions and not any(map(_file_name, take(task, "data", dict, place).values())):
                notes["task", "of a text, sound or video"] += 1
                continue
            found.append((path, task, place, regions))
    if not found:
        raise HfgdError(f"{tree.place(files[0])} has no task with an annotation.")
    labels = {label for *_, regions in found for label, *_ in regions}
    if not labels:
        raise HfgdError(f"{tree.place(files[0])} has no brush, polygon, rectangle or ellipse.")
    names = class_names(sorted(labels), tree.place(files[0]))
    items = []
    for path, task, place, regions in found:
        image = _image(tree, path, task, place)
        shapes = tuple(Shape(names.index(label), region, at) for label, region, _, at in regions)
        sizes = {size for _, _, size, _ in regions}
        if len(sizes) > 1:
            raise HfgdError(f"{place}: its regions state different sizes of the image, {sizes}.")
        name = without_suffix(posixpath.basename(image))
        items.append(
            Annotated(name, tree.source(image), place, next(iter(sizes), None), shapes=shapes)
        )
    told = [f"{counted(n, thing)} {rest} left out" for (thing, rest), n in sorted(notes.items())]
    return Annotations(names, items, notes=told)


Notes = Counter[tuple[str, str]]  # what was left out: the thing, and which
Found = tuple[str, Region, tuple[int, int], str]  # label, region, size of the image, place


def _annotation(task: Any, place: str) -> Any:
    """The one annotation that counts; None where there is none."""
    listed = take(task, "annotations" if "annotations" in task else "completions", list, place)
    valid = [a for a in listed if isinstance(a, dict) and not a.get("was_cancelled")]
    truth = [a for a in valid if a.get("ground_truth")]
    chosen = truth if len(truth) == 1 else valid
    if len(chosen) > 1:
        raise HfgdError(
            f"{place} has {len(chosen)} annotations, and which one is right is not known; mark one "
            "as ground truth, or delete the others."
        )
    return chosen[0] if chosen else None


def _regions(annotation: Any, place: str, notes: Notes) -> list[Found]:
    """The areas of an annotation in their order; a region and its label may be two records."""
    merged: dict[Any, dict[str, Any]] = {}
    for position, record in enumerate(take(annotation, "result", list, place)):
        if not isinstance(record, dict):
            raise HfgdError(f"{place}: 'result' has {shown(record)}, which is no record.")
        value = record.get("value")
        if not isinstance(value, dict):
            notes["relation", "between regions"] += 1
            continue
        key = record.get("id", f"number {position}")
        key = key if isinstance(key, str | int) else shown(key)
        before = merged.get(key, {"value": {}})
        merged[key] = before | record | {"value": before["value"] | value}
    found: list[Found] = []
    for key, record in merged.items():
        where = f"{place}: region {key}"
        value = record["value"]
        kind = str(record.get("type"))
        if kind in UNREAD or "imageDataURL" in value:
            raise HfgdError(f"{where}: areas of the type '{kind}' are not read; use a brush.")
        area = {"rle", "points", "radiusX"} & value.keys() or {"width", "height"} <= value.keys()
        if not area or kind in NO_AREAS:
            notes["region", f"of the type '{kind}', which is no area,"] += 1
            continue
        labels = next((value[name] for name in LABELS if name in value), None)
        if not isinstance(labels, list) or len(labels) != 1:
            raise HfgdError(f"{where} has the labels {shown(labels)}; a pixel has exactly one.")
        size = size_of(record, "original_height", "original_width", where)
        if size is None:
            raise HfgdError(f"{where} has no 'original_height' and 'original_width'.")
        found.append((str(labels[0]).strip(), _region(value, size, where), size, where))
    return found


def _region(value: dict[str, Any], size: tuple[int, int], where: str) -> Region:
    height, width = size
    scale_x, scale_y = width / 100, height / 100
    if "rle" in value:
        runs = value["rle"]
        if not isinstance(runs, list) or not all(isinstance(b, int) and 0 <= b < 256 for b in runs):
            raise HfgdError(f"{where}: 'rle' is {shown(runs)}, not a list of bytes.")
        return Patch(partial(decode_brush, bytes(runs)))
    if "points" in value:
        percent = np.array(points(value["points"], where, "points")).reshape(-1, 2)
        return Polygons((tuple((percent * (scale_x, scale_y)).ravel().tolist()),))
    keys = ("x", "y", "radiusX", "radiusY") if "radiusX" in value else ("x", "y", "width", "height")
    x, y, across, down, angle = numbers(
        [value.get(key) for key in keys] + [value.get("rotation", 0)], where, ", ".join(keys)
    )
    x, y, across, down = x * scale_x, y * scale_y, across * scale_x, down * scale_y
    if "radiusX" in value:
        return Ellipse(x, y, across, down, angle)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    corners = [(0.0, 0.0), (across, 0.0), (across, down), (0.0, down)]  # turned about the first
    turned = [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners]
    return Polygons((tuple(number for corner in turned for number in corner),))


def decode_brush(data: bytes, height: int, width: int) -> Mask:
    """Label Studio's run-length bit stream as the pixels that are not transparent.

    32 bits: number of values; 5: bits of a value - 1; 4 times 4: the four lengths of a run length
    - 1. Then, until all values are there: 1 bit, run or not; 2 bits: which length; that many bits:
    number of values - 1; one value for a run, else all of them.
    """
    bits = _Bits(data)
    total = bits.number(32)
    if total != height * width * CHANNELS:
        raise HfgdError(
            f"'rle' holds {total} values, and an image of {height}×{width} (height × width) has "
            f"{height * width * CHANNELS}."
        )
    word = bits.number(5) + 1
    lengths = [bits.number(4) + 1 for _ in range(4)]
    values = np.zeros(total, dtype=bool)
    done = 0
    while done < total:
        run = bits.number(1)
        stop = done + 1 + bits.number(lengths[bits.number(2)])
        if stop > total:
            raise HfgdError(f"'rle' has runs beyond its {total} values.")
        if run:
            values[done:stop] = bits.number(word) > 0
        else:
            values[done:stop] = [bits.number(word) > 0 for _ in range(stop - done)]
        done = stop
    return values.reshape(height, width, CHANNELS)[..., -1]


class _Bits:
    """Bits of a byte string, the highest of a byte first, read in their order."""

    def __init__(self, data: bytes) -> None:
        self._text = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def number(self, count: int) -> int:
        """The next ``count`` bits as a number."""
        start, self._at = self._at, self._at + count
        if self._at > len(self._text):
            raise HfgdError("'rle' ends before all its values are there; it is cut off.")
        return int(self._text[start : self._at], 2)


def _image(tree: Tree, path: str, task: Any, place: str) -> str:
    """The image of a task, by the name of its upload, also without Label Studio's prefix."""
    data = take(task, "data", dict, place)
    named = [name for name in map(_file_name, data.values()) if name]
    upload = task.get("file_upload")
    names = ([upload] if isinstance(upload, str) else []) + named
    if not names:
        raise HfgdError(f"{place}: 'data' names no image ({shown(data)}).")
    if len(set(named)) > 1:
        raise HfgdError(f"{place}: 'data' names several images, {', '.join(sorted(set(named)))}.")
    names += [re.sub(r"^[0-9a-f]{8}-", "", posixpath.basename(name)) for name in names]
    folder = posixpath.dirname(path)
    problems = []
    for name in dict.fromkeys(names):
        try:
            return tree.image(name, place, (folder, f"{folder}/images"))
        except HfgdError as error:
            problems.append(error)
    raise problems[0]


def _file_name(value: Any) -> str | None:
    """The file that a value of 'data' names: a path, a URL, '/data/local-files/?d=a/b.jpg'."""
    if not isinstance(value, str):
        return None
    parts = urlparse(value)
    local = parse_qs(parts.query).get("d")
    name = local[0] if local else unquote(parts.path)
    ok = posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES
    return (name if local or not name.startswith("/") else posixpath.basename(name)) if ok else None


def _files(tree: Tree) -> list[str]:
    found = []
    for path in tree.candidates(".json")[:20]:
        data = tree.peek(path)
        first = data[0] if isinstance(data, list) and data else None
        if (
            isinstance(first, dict)
            and "data" in first
            and {"annotations", "completions"} & first.keys()
        ):
            found.append(path)
        elif isinstance(first, dict) and {"annotator", "annotation_id", "lead_time"} & first.keys():
            tree.broken = tree.broken or HfgdError(
                f"{tree.place(path)} is Label Studio's JSON-MIN, which does not keep all that areas "
                "need; export 'JSON'."
            )
    return found


LABELSTUDIO = AnnotationFormat(
    "labelstudio", "Label Studio JSON: brushes, polygons, boxes", sniff, read
)
