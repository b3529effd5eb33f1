"""Pascal VOC's label images: JPEGImages, SegmentationClass, ImageSets/Segmentation.

Palette PNGs, ids, or RGB in VOC's colours; also the folder that LabelMe's ``labelme2voc.py`` writes
(class_names.txt). Void is 255, or (224, 224, 192) in colours.
"""

import posixpath
from collections.abc import Callable
from functools import partial

import numpy as np

from hfgd.data.archive import Source, composed
from hfgd.data.classes import LabelMap, voc_colour
from hfgd.data.formats.base import (
    IGNORE,
    IGNORED,
    UNLABELLED,
    Annotated,
    AnnotationFormat,
    Annotations,
    class_names,
    counted,
    read_ids,
)
from hfgd.data.formats.tree import Tree, clean, split_of_word
from hfgd.data.images import Pixels, read_header
from hfgd.data.label_files import read_label
from hfgd.errors import HfgdError

CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor"
).split()
FOLDERS = ("SegmentationClass", "SegmentationClassPNG")
MASKS = frozenset({*FOLDERS, "SegmentationObject", "SegmentationObjectPNG"})
VOID = 224 << 16 | 224 << 8 | 192


def sniff(tree: Tree) -> str | None:
    """Why it looks like VOC; a labelmap.txt makes it CVAT's."""
    masks = find_masks(tree)
    if not masks or tree.find(r"labelmap\.txt"):
        return None
    return (
        f"{tree.place(next(iter(masks.values())))} lies in SegmentationClass, without labelmap.txt"
    )


def read(tree: Tree) -> Annotations:
    """Every label image with its image; id 0 is the background."""
    masks = find_masks(tree)
    if not masks:
        raise HfgdError(f"'{tree.root}' has no folder SegmentationClass with PNG files.")
    listed = tree.find(r"class_names\.txt")
    names, place = list(CLASSES), "VOC's table of 20 classes"
    if listed:
        place = tree.place(listed[0])
        lines = [line.strip() for line in tree.text(listed[0]).splitlines() if line.strip()]
        lines = [line for line in lines if line not in IGNORED]
        names = class_names(lines[1:], place)  # the first one is _background_
    table = {0: UNLABELLED} | {i + 1: i for i in range(len(names))} | {IGNORE: IGNORE}
    items, notes = pair_masks(tree, masks, lambda source: voc_label(source, table, place))
    colours = {name: voc_colour(i + 1) for i, name in enumerate(names)}
    return Annotations(names, items, colours, unlabelled="background", notes=notes)


def voc_label(source: Source, table: dict[int, int], known: str) -> Pixels:
    """A label image in ids, in a palette, or in VOC's colours."""
    mode, _, _, palette = read_header(source)
    if mode not in ("P", "L"):
        by_colour = {_packed(voc_colour(raw)): index for raw, index in table.items()}
        return read_ids(LabelMap(by_colour | {VOID: IGNORE}, colours=True), source, known)
    label = read_ids(LabelMap(table), source, known)
    if mode == "P" and palette is not None:
        values = np.unique(read_label(source, colours=False)).tolist()
        for value in values:
            if tuple(palette[3 * value : 3 * value + 3]) != voc_colour(value):
                raise HfgdError(
                    f"'{source}' has a palette that is not VOC's (id {value}), so what its ids "
                    "mean is not known; add a labelmap.txt with 'name:r,g,b::' lines (CVAT's form)."
                )
    return label


def find_masks(tree: Tree) -> dict[str, str]:
    """Label images by their name below SegmentationClass: 'img1', or 'folder/img1'."""
    masks: dict[str, str] = {}
    for path in tree.files:
        parts = path.split("/")
        for folder in FOLDERS:
            if folder in parts[:-1] and path.lower().endswith(".png"):
                name = "/".join(parts[parts.index(folder) + 1 :])
                masks.setdefault(composed(posixpath.splitext(name)[0]), path)
    return masks


def pair_masks(
    tree: Tree, masks: dict[str, str], read_one: Callable[[Source], Pixels]
) -> tuple[list[Annotated], list[str]]:
    """Label images with their images and splits, the images that are listed without one, notes."""
    splits, notes = _lists(tree, masks)
    items = _unannotated(tree, {n: s for n, s in splits.items() if n not in masks}, notes)
    for name, path in masks.items():
        if splits and name not in splits:
            continue
        place = tree.place(path)
        base = path.split("/Segmentation")[0] if "/Segmentation" in path else ""
        near = (f"{base}/JPEGImages", base)  # where both tools put their images
        image = tree.image(name, place, near, without=MASKS, stem=True)
        source = tree.source(path)
        items.append(
            Annotated(
                name,
                tree.source(image),
                place,
                split=splits.get(name),
                label=partial(read_one, source),
                mask=source,
            )
        )
    return items, notes


def _lists(tree: Tree, masks: dict[str, str]) -> tuple[dict[str, str | None], list[str]]:
    """Names → split, from ImageSets/Segmentation/*.txt; a list of another name decides nothing."""
    lists = tree.find(r"ImageSets/Segmentation/[^/]+\.txt")
    by_split = {
        path: split_of_word(posixpath.splitext(posixpath.basename(path))[0]) for path in lists
    }
    if {"train", "val"} <= set(by_split.values()):
        by_split = {path: split for path, split in by_split.items() if split}  # not trainval.txt
    splits: dict[str, str | None] = {}
    notes: list[str] = []
    for path, split in by_split.items():
        lines = (line.strip().strip('"') for line in tree.text(path).splitlines())
        names = [clean(line) for line in lines if line]
        if names and not masks.keys() & set(names):
            images = counted(len(names), "image")
            notes.append(f"{tree.place(path)} left out ({images}): none has a label image")
            continue
        for name in names:
            if splits.get(name) not in (None, split):
                raise HfgdError(
                    f"{tree.place(path)} lists '{name}' for {split}, and another list for "
                    f"{splits[name]}; keep it in one."
                )
            splits[name] = split
    rest = len(masks.keys() - splits.keys())
    notes += [f"{counted(rest, 'label image')} in no list left out"] if splits and rest else []
    return splits, notes


def _unannotated(tree: Tree, splits: dict[str, str | None], notes: list[str]) -> list[Annotated]:
    """The images that are listed without a label image: nobody labelled them (CVAT's empty frames)."""
    items, missing = [], 0
    for name, split in splits.items():
        place = f"'{tree.root}': the listed image '{name}'"
        try:
            image = tree.image(name, place, ("JPEGImages",), without=MASKS, stem=True)
        except HfgdError:
            missing += 1
            continue
        items.append(Annotated(name, tree.source(image), place, split=split, unannotated=True))
    if missing:
        notes.append(
            f"{counted(missing, 'listed name')} without an image or a label image left out"
        )
    return items


def _packed(colour: tuple[int, int, int]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


VOC = AnnotationFormat("voc", "VOC label images: SegmentationClass", sniff, read)
