"""Ultralytics: a data set yaml with images/ and masks/ (PNG ids), or labels/ (YOLO polygons).

Read against ultralytics/ultralytics, ``docs/en/datasets/semantic/index.md``: with ``masks_dir`` in
the yaml the labels are PNG files, 255 = ignore, ids through ``label_mapping`` where there is one;
without it they are polygons, and what no polygon covers is background.
"""

import posixpath
from functools import partial
from typing import Any

from hfgd.data.classes import LabelMap, refuse_misread
from hfgd.data.formats.base import (
    IGNORE,
    Annotated,
    AnnotationFormat,
    Annotations,
    Shape,
    class_names,
    counted,
    read_ids,
    shown,
    take,
    whole,
)
from hfgd.data.formats.regions import Polygons
from hfgd.data.formats.tree import Tree, clean
from hfgd.errors import HfgdError

SPLITS = ("train", "val", "test")
SLACK = 0.01  # Ultralytics takes coordinates up to 1.01
MASK_SUFFIXES = (".png", ".PNG", ".bmp", ".tif", ".tiff")


def sniff(tree: Tree) -> str | None:
    """Why it looks like an Ultralytics data set."""
    found = _files(tree)
    return f"{tree.place(found[0])} has 'names' and a path for 'train' or 'val'" if found else None


def read(tree: Tree) -> Annotations:
    """Every image of the yaml's splits."""
    files = _files(tree)
    if len(files) != 1:
        what = f"{len(files)} such files; give the one to import" if files else "none"
        raise HfgdError(
            f"an Ultralytics data set has one yaml file with 'names', 'train' and 'val', and "
            f"'{tree.root}' has {what}."
        )
    path = files[0]
    spec, place = tree.yaml(path), tree.place(path)
    listed = take(spec, "names", (list, dict), place)
    by_id = dict(enumerate(listed)) if isinstance(listed, list) else listed
    numbered = {whole(key, place, "names"): name for key, name in by_id.items()}
    refuse_misread((n for n in numbered.values() if type(n) not in (int, float)), f"{place}: names")
    ids = sorted(numbered)
    if ids != list(range(len(ids))):
        raise HfgdError(f"{place}: 'names' must be numbered from 0 without gaps, not {shown(ids)}.")
    names = class_names((numbered[number] for number in ids), place)
    images = _images(tree, spec, path)
    masks = spec.get("masks_dir")
    items, notes = [], []
    missing = 0
    if masks is None:
        for split, image in images:
            item, has_file = _polygon_item(tree, split, image, len(names))
            missing += not has_file
            items.append(item)
        if missing:
            notes.append(f"{counted(missing, 'image')} without a label file: nothing in them")
        return Annotations(names, items, unlabelled="background", notes=notes)
    label_map = LabelMap(_mapping(spec.get("label_mapping"), len(names), place))
    items = [
        _mask_item(tree, split, image, str(masks), label_map, place) for split, image in images
    ]
    return Annotations(names, items)


def _images(tree: Tree, spec: dict[str, Any], path: str) -> list[tuple[str, str]]:
    """(split, image) of the yaml's folders and list files, in order."""
    place, home = tree.place(path), posixpath.dirname(path)
    bases = [home]
    if isinstance(spec.get("path"), str):
        bases = [clean(f"{home}/{spec['path']}"), home]
    found = []
    for split in SPLITS:
        entries = spec.get(split) or []
        if not isinstance(entries, str | list):
            raise HfgdError(
                f"{place}: '{split}' is {shown(entries)}, not a path or a list of them."
            )
        for entry in [entries] if isinstance(entries, str) else entries:
            images = _expand(tree, str(entry), bases)
            if not images and split != "test":
                raise HfgdError(
                    f"{place}: '{split}: {entry}' leads to no image below '{tree.root}'."
                )
            found += [(split, image) for image in images]
    return found


def _expand(tree: Tree, entry: str, bases: list[str]) -> list[str]:
    """Images of a folder, or of a text file that lists them, relative to one of ``bases``.

    An entry is tried without the '../' that Roboflow writes too, and an absolute path by its end.
    """
    entries = [entry, entry.removeprefix("../")]
    for base in bases:
        for one in entries:
            where = clean(f"{base}/{one}")
            if where.endswith(".txt") and where in tree.files:
                lines = [line.strip() for line in tree.text(where).splitlines() if line.strip()]
                folder = posixpath.dirname(where)
                return [tree.image(line, tree.place(where), (folder, base)) for line in lines]
            inside = [image for image in tree.images if image.startswith(f"{where}/")]
            if inside:
                return inside
    if entry.startswith("/"):
        parts = clean(entry).split("/")
        for start in range(1, len(parts)):
            inside = [i for i in tree.images if i.startswith("/".join(parts[start:]) + "/")]
            if inside:
                return inside
    return []


def _mask_item(
    tree: Tree, split: str, image: str, masks: str, label_map: LabelMap, known: str
) -> Annotated:
    place = tree.place(image)
    stem = posixpath.splitext(_replace(image, masks))[0]
    found = [stem + suffix for suffix in MASK_SUFFIXES if stem + suffix in tree.files]
    if not found:
        raise HfgdError(f"{place} has no mask '{stem}.png' below '{tree.root}'.")
    label = partial(read_ids, label_map, tree.source(found[0]), known)
    return Annotated(
        _name(image, split),
        tree.source(image),
        place,
        split=split,
        label=label,
        mask=tree.source(found[0]),
    )


def _polygon_item(tree: Tree, split: str, image: str, count: int) -> tuple[Annotated, bool]:
    labels = posixpath.splitext(_replace(image, "labels"))[0] + ".txt"
    has_file = labels in tree.files
    place = tree.place(labels) if has_file else tree.place(image)
    shapes = parse_polygons(tree.text(labels), count, place) if has_file else ()
    return Annotated(
        _name(image, split), tree.source(image), place, split=split, shapes=shapes
    ), has_file


def parse_polygons(text: str, count: int, place: str) -> tuple[Shape, ...]:
    """'class x1 y1 x2 y2 …' lines, coordinates as shares of width and height."""
    shapes = []
    for number, line in enumerate(text.splitlines(), 1):
        where, words = f"{place}: line {number}", line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words[1:]]
        except ValueError as error:
            raise HfgdError(f"{where} holds something else than numbers, {shown(line)}.") from error
        index = whole(words[0], where, "class")
        if not 0 <= index < count:
            raise HfgdError(f"{where}: there is no class {index} in 'names' (0 to {count - 1}).")
        if len(values) == 4:
            raise HfgdError(
                f"{where} is a box and no polygon; export the data set for segmentation."
            )
        if len(values) < 6 or len(values) % 2:
            raise HfgdError(
                f"{where} has {len(values)} coordinates; a polygon has 3 points or more."
            )
        if not all(-SLACK <= value <= 1 + SLACK for value in values):
            raise HfgdError(f"{where} has coordinates outside of 0 to 1; they must be shares.")
        shapes.append(Shape(index, Polygons((tuple(values),), relative=True), where))
    return tuple(shapes)


def _replace(image: str, folder: str) -> str:
    """The last folder 'images' of a path replaced, as Ultralytics does it."""
    before, found, after = f"/{image}".rpartition("/images/")
    return clean(f"{before}/{folder}/{after}" if found else image)


def _name(image: str, split: str) -> str:
    """The image's path below its split's folder."""
    parts = posixpath.splitext(image)[0].split("/")
    for start in range(len(parts) - 1, 0, -1):
        if parts[start - 1] in (split, "images", "valid"):
            return "/".join(parts[start:])
    return parts[-1]


def _mapping(given: Any, count: int, place: str) -> dict[int, int]:
    """Ids in the masks → class indices; 'ignore_label' and 255 count nowhere."""
    if given is None:
        return {index: index for index in range(count)} | {IGNORE: IGNORE}
    table = {IGNORE: IGNORE}
    for raw, target in take({"label_mapping": given}, "label_mapping", dict, place).items():
        number = whole(raw, place, "label_mapping")
        if target in ("ignore_label", IGNORE, -1):
            index = IGNORE
        else:
            index = whole(target, place, "label_mapping")
            if not 0 <= index < count:
                raise HfgdError(
                    f"{place}: label_mapping: {number} leads to {index}, which 'names' lacks."
                )
        if number >= 0:
            table[number] = index
    return table


def _files(tree: Tree) -> list[str]:
    found = []
    for path in tree.candidates(".yaml", ".yml"):
        try:
            spec = tree.yaml(path)
        except HfgdError as error:
            tree.broken = tree.broken or error
            continue
        if isinstance(spec, dict) and "names" in spec and ("train" in spec or "val" in spec):
            found.append(path)
    return found


ULTRALYTICS = AnnotationFormat(
    "ultralytics", "Ultralytics yaml: PNG masks or YOLO polygons", sniff, read
)
