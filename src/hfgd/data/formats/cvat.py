"""CVAT's "Segmentation mask 1.1": labelmap.txt, SegmentationClass, ImageSets, JPEGImages.

Read against cvat-ai/cvat, ``site/content/en/docs/manual/advanced/formats/format-smask.md``. CVAT
gives the background's colour to pixels that nobody labelled, and shows images upright by EXIF.
"""

from hfgd.data.archive import Source
from hfgd.data.classes import LabelMap, Rgb
from hfgd.data.formats.base import (
    UNLABELLED,
    AnnotationFormat,
    Annotations,
    class_names,
    read_ids,
)
from hfgd.data.formats.tree import Tree
from hfgd.data.formats.voc import find_masks, pair_masks
from hfgd.data.images import Pixels, read_header
from hfgd.errors import HfgdError

BACKGROUND = "background"


def sniff(tree: Tree) -> str | None:
    """Why it looks like CVAT's masks."""
    listed = tree.find(r"labelmap\.txt")
    if not listed or not find_masks(tree):
        return None
    return f"{tree.place(listed[0])} lists colours, beside SegmentationClass"


def read(tree: Tree) -> Annotations:
    """Every label image with its image; the background's colour is unlabelled."""
    listed, masks = tree.find(r"labelmap\.txt"), find_masks(tree)
    if not listed or not masks:
        missing = "SegmentationClass with PNG files" if listed else "labelmap.txt"
        raise HfgdError(
            f"'{tree.root}' has no {missing}; export 'Segmentation mask 1.1' from CVAT."
        )
    place = tree.place(listed[0])
    entries = parse_labelmap(tree.text(listed[0]), place)
    names = class_names((n for n in entries if n != BACKGROUND), place)
    by_name = {name: index for index, name in enumerate(names)} | {BACKGROUND: UNLABELLED}
    black = {} if (0, 0, 0) in entries.values() else {0: UNLABELLED}
    colours = {_packed(colour): by_name[name] for name, colour in entries.items()} | black
    ids = dict(enumerate(by_name[name] for name in entries))  # one channel: places in the list
    tables = LabelMap(ids), LabelMap(colours, colours=True)
    items, notes = pair_masks(tree, masks, lambda source: _label(source, *tables, place))
    palette = {name: colour for name, colour in entries.items() if name != BACKGROUND}
    return Annotations(names, items, palette, unlabelled=BACKGROUND, notes=notes)


def parse_labelmap(text: str, place: str) -> dict[str, Rgb]:
    """'name:r,g,b:parts:actions' lines → colours by name; no name and no colour twice."""
    entries: dict[str, Rgb] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        fields = line.strip().rsplit(":", 3) if line.count(":") >= 3 else line.strip().split(":")
        try:
            name = fields[0].strip()
            red, green, blue = (int(part) for part in fields[1].split(","))
        except (IndexError, ValueError) as error:
            raise HfgdError(f"{place}: line {number} is not of the form 'name:r,g,b::'.") from error
        colour = (red, green, blue)
        if not all(0 <= part <= 255 for part in colour):
            raise HfgdError(f"{place}: line {number}: {colour} is no colour from 0 to 255.")
        if name in entries:
            raise HfgdError(f"{place} lists the class '{name}' twice; class names must differ.")
        if colour in entries.values():
            other = next(n for n, c in entries.items() if c == colour)
            raise HfgdError(f"{place}: '{other}' and '{name}' have the same colour {colour}.")
        entries[name] = colour
    return entries


def _label(source: Source, ids: LabelMap, colours: LabelMap, place: str) -> Pixels:
    grey = read_header(source).mode in ("L", "1", "I", "I;16")
    return read_ids(ids if grey else colours, source, place)


def _packed(colour: Rgb) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


CVAT = AnnotationFormat(
    "cvat", "CVAT segmentation mask 1.1: labelmap.txt, SegmentationClass", sniff, read
)
