"""COCO JSON: polygons, run-length encodings (plain and compressed), crowds.

Read against the files that these tools make: COCO 2017, and (structure only) datumaro's
``tests/assets/coco_dataset/coco_instances`` and ``tests/assets/roboflow_dataset/coco``
(openvinotoolkit/datumaro), the second of boxes without masks.
"""

import posixpath
from collections import Counter
from typing import Any

from hfgd.data.classes import Rgb
from hfgd.data.formats.base import (
    Annotated,
    AnnotationFormat,
    Annotations,
    Shape,
    class_names,
    counted,
    numbers,
    shown,
    size_of,
    take,
    whole,
)
from hfgd.data.formats.regions import Polygons, Region, Runs
from hfgd.data.formats.tree import LOOKED_AT, Tree, split_of_file, without_suffix
from hfgd.errors import HfgdError

COCOS_CROWDS = 900_000_000_000
KEYS = ("images", "annotations", "categories")


def sniff(tree: Tree) -> str | None:
    """Why it looks like COCO."""
    found = _files(tree)
    if not found:
        return None
    return f"{tree.place(found[0])} has images, categories and annotations with 'segmentation'"


def read(tree: Tree) -> Annotations:
    """Every image of the files, with its annotations in their order."""
    files = _chosen(tree)
    table = Categories()
    items: list[Annotated] = []
    notes = Counter[str]()
    seen: dict[tuple[str | None, str], str] = {}
    for path in files:
        table.add(tree.json(path), tree.place(path))
        for item in _read_file(tree, path, table, notes):
            before = seen.setdefault((item.split, item.name), tree.place(path))
            if before != tree.place(path):
                raise HfgdError(
                    f"{before} and {tree.place(path)} both list the image '{item.name}'; "
                    "give the one file to import."
                )
            items.append(item)
    _refuse_boxes(items, notes, tree.place(files[0]))
    told = [
        sentence.format(number=counted(notes[key], "annotation"))
        for key, sentence in NOTES.items()
        if notes[key]
    ]
    if notes["empty"]:
        told.append(f"{counted(notes['empty'], 'image')} without any annotation: all unlabelled")
    return Annotations(table.names, items, table.colours, notes=told)


NOTES = {
    "brush": "{number} with a mask say iscrowd, as CVAT's brush masks do: kept in the file's order",
    "crowd": "{number} of crowds (iscrowd) count as their class, below all others where they overlap",
    "box": "{number} with a box and no segmentation left out",
}


class Categories:
    """Category ids and class names of one file or of several that agree."""

    def __init__(self) -> None:
        self.index: dict[int, int] = {}
        self.names: list[str] = []
        self.colours: dict[str, Rgb] = {}
        self._first: tuple[str, dict[int, str]] | None = None

    def add(self, data: Any, place: str) -> None:
        """The categories of a file. Raises HfgdError where they contradict those before."""
        listed: dict[int, str] = {}
        for record in take(data, "categories", list, place):
            number = whole(take(record, "id", object, f"{place}: a category"), place, "id")
            if number in listed:
                raise HfgdError(f"{place}: categories: the id {number} is listed twice.")
            listed[number] = take(record, "name", str, f"{place}: category {number}").strip()
            colour = record.get("color")
            if (
                isinstance(colour, list)
                and len(colour) == 3
                and all(isinstance(c, int) and c in range(256) for c in colour)
            ):
                self.colours[listed[number]] = (colour[0], colour[1], colour[2])
        if self._first is None:
            self._first = place, listed
            self.names = class_names((listed[n] for n in sorted(listed)), place)
            self.index = {number: index for index, number in enumerate(sorted(listed))}
        elif self._first[1] != listed:
            raise HfgdError(
                f"{self._first[0]} and {place} have different categories; import them one by one."
            )

    def of(self, number: Any, place: str) -> int:
        """The class index of a category id."""
        if not isinstance(number, int) or isinstance(number, bool) or number not in self.index:
            raise HfgdError(
                f"{place}: the category_id {shown(number)} is not in 'categories' (known: "
                f"{', '.join(map(str, sorted(self.index)[:12]))}); add it, or mend the annotation."
            )
        return self.index[number]


def images_of(data: Any, place: str) -> dict[Any, dict[str, Any]]:
    """The images of a file by their id."""
    images: dict[Any, dict[str, Any]] = {}
    names: set[str] = set()
    for record in take(data, "images", list, place):
        number = take(record, "id", (int, str), f"{place}: an image")
        name = take(record, "file_name", str, f"{place}: image {number}")
        if number in images or name in names:
            raise HfgdError(f"{place}: images: '{name}' (id {number}) is listed twice.")
        images[number] = record
        names.add(name)
    return images


def _read_file(tree: Tree, path: str, table: Categories, notes: Counter[str]) -> list[Annotated]:
    data, place = tree.json(path), tree.place(path)
    images = images_of(data, place)
    shapes: dict[Any, list[Shape]] = {number: [] for number in images}
    brush = _brush_masks(data)
    for position, record in enumerate(take(data, "annotations", list, place)):
        number = record.get("id", f"number {position}") if isinstance(record, dict) else position
        where = f"{place}: annotation {number}"
        image_id = take(record, "image_id", (int, str), where)
        if image_id not in images:
            raise HfgdError(f"{where}: the image_id {shown(image_id)} is not in 'images'.")
        index = table.of(record.get("category_id"), where)
        size = size_of(images[image_id], "height", "width", f"{place}: image {image_id}")
        region = _region(record.get("segmentation"), size, where)
        if region is None:
            notes["box"] += 1
            continue
        crowd = record.get("iscrowd") in (1, True)
        notes["brush" if brush else "crowd"] += crowd
        shapes[image_id].append(Shape(index, region, where, below=crowd and not brush))
    notes["empty"] += sum(not found for found in shapes.values())
    split, folder = split_of_file(path), posixpath.dirname(path)
    items = []
    for number, record in images.items():
        where = f"{place}: image {number}"
        image = tree.image(record["file_name"], where, (folder,), split)
        items.append(
            Annotated(
                without_suffix(record["file_name"], split),
                tree.source(image),
                where,
                size_of(record, "height", "width", where),
                split,
                tuple(shapes[number]),
            )
        )
    return items


def _brush_masks(data: dict[str, Any]) -> bool:
    """Whether iscrowd means nothing: CVAT writes it for each mask that was drawn with the brush.

    COCO's own crowds are run lengths too; their ids have twelve digits and begin with 900.
    """
    runs = [
        record
        for record in data["annotations"]
        if isinstance(record, dict) and isinstance(record.get("segmentation"), dict)
    ]
    crowds = [record for record in runs if record.get("iscrowd") in (1, True)]
    own = any(isinstance(r.get("id"), int) and r["id"] >= COCOS_CROWDS for r in crowds)
    return len(runs) > 0 and len(crowds) == len(runs) and not own


def _region(segmentation: Any, size: tuple[int, int] | None, place: str) -> Region | None:
    """A 'segmentation' as a region; None where there is none."""
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, list):
        rings = tuple(numbers(ring, place, "segmentation") for ring in segmentation)
        if any(len(ring) % 2 for ring in rings):
            raise HfgdError(f"{place}: 'segmentation' has an odd number of coordinates.")
        return Polygons(rings)
    stated = [whole(v, place, "size") for v in take(segmentation, "size", list, place)]
    if len(stated) != 2 or (size is not None and tuple(stated) != size):
        raise HfgdError(f"{place}: 'size' is {stated}, and the image is {size} (height, width).")
    counts = take(segmentation, "counts", (list, str), place)
    if isinstance(counts, list):
        counts = [whole(count, place, "counts") for count in counts]
    return Runs({"size": stated, "counts": counts})


def _refuse_boxes(items: list[Annotated], notes: Counter[str], place: str) -> None:
    if notes["box"] and not any(item.shapes for item in items):
        raise HfgdError(
            f"{place} has boxes and no masks ('segmentation' is empty everywhere); export it "
            "with polygons or masks."
        )


def _files(tree: Tree) -> list[str]:
    """JSON files that are COCO's with masks, not those of captions, panoptic or image lists."""
    found = []
    for path in tree.candidates(".json")[:LOOKED_AT]:
        data = tree.peek(path)
        if isinstance(data, dict) and all(isinstance(data.get(key), list) for key in KEYS):
            first = data["annotations"][:50]
            if not first or any(isinstance(a, dict) and "segmentation" in a for a in first):
                found.append(path)
    return found


def _chosen(tree: Tree) -> list[str]:
    """COCO's own folder repeats its instances as keypoints: instances_*.json win."""
    files = _files(tree)
    if tree.broken or not files:
        raise tree.broken or HfgdError(
            f"'{tree.root}' has no JSON file with images, annotations with 'segmentation' and "
            "categories; is it COCO's?"
        )
    instances = [path for path in files if posixpath.basename(path).startswith("instances")]
    return instances or files


COCO = AnnotationFormat("coco", "COCO JSON: polygons, RLE, crowds", sniff, read)
