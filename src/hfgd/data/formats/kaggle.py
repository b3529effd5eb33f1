"""Kaggle's run-length csv: an image and 'start length start length …' in each row, pixels from 1.

The forms of Severstal, Airbus, clouds, TGS salt, HuBMAP, Carvana, Sartorius and UW-Madison: a column of
images, one of runs, and a class in a column of its own or behind the image's name ('x.jpg_3'). Pixels
are counted down the columns or along the rows; see ``_order``. Relative run lengths are refused.
"""

import csv
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace

from scipy import ndimage

from hfgd.data.archive import Source
from hfgd.data.formats.base import (
    Annotated,
    AnnotationFormat,
    Annotations,
    Shape,
    class_names,
    counted,
    shown,
    size_of,
)
from hfgd.data.formats.paint import upright
from hfgd.data.formats.regions import Spans
from hfgd.data.formats.tree import RleOrder, Tree, split_of_file, without_suffix
from hfgd.data.images import IMAGE_SUFFIXES, read_header
from hfgd.errors import HfgdError

IMAGES = (
    "imageid", "image_id", "id", "image", "img", "img_id", "filename", "file_name", "image_name",
    "image_path",
)  # fmt: skip
JOINED = ("imageid_classid", "image_label", "image_class")
ORDERS: tuple[RleOrder, RleOrder] = ("columns", "rows")
COLUMNWISE = ("encodedpixels", "rle", "rle_mask")
RUNS = (
    "encodedpixels", "rle", "rle_mask", "rle_encoding", "encoding", "encoded_pixels", "mask_rle",
)  # fmt: skip
ROWWISE = ("segmentation", "annotation")  # columns of competitions that count along the rows
MEASURED, LARGEST = 20, 1 << 25  # masks that are looked at, and pixels of one
MASKS = frozenset({"mask", "masks", "train_masks"})  # folders of the same masks as pictures
EMPTY = ("", "-1", "nan", "none", "null")
CLEAR = 1.25  # one reading's outline is that much longer than the other's: it is the wrong one
CLASSES = ("classid", "class_id", "class", "label", "category")
ONLY_CLASS = "foreground"


def sniff(tree: Tree) -> str | None:
    """Why it looks like Kaggle's csv."""
    for path in tree.candidates(".csv"):
        header = _header(tree, path)
        if any(n in (*RUNS, *ROWWISE) for n in header) and any(
            n in (*IMAGES, *JOINED) for n in header
        ):
            return f"{tree.place(path)} has a column of images and one of run lengths"
    return None


def read(tree: Tree) -> Annotations:
    """Every image that the csv names; what no run covers is background."""
    path = _chosen(tree)
    place = tree.place(path)
    found: dict[str, list[tuple[str, Spans, str]]] = defaultdict(list)
    sizes: dict[str, tuple[int, int] | None] = {}
    classes: set[str] = set()
    for line, row in _rows(tree, path):
        where = f"{place}: line {line}"
        image, label = _image_and_class(row, where)
        sizes[image] = size_of({k: v or None for k, v in row.items()}, "height", "width", where)
        text = next(row[key] for key in (*RUNS, *ROWWISE) if key in row).strip()
        masks = found[image]
        if label:
            classes.add(label)
        if text.lower() in EMPTY:
            continue  # nothing of that class in the image
        if not label:
            raise HfgdError(f"{where} has run lengths and no class.")
        masks.append((label, parse_runs(text, where), where))
    sources = {image: _source(tree, image, place, split_of_file(path)) for image in found}
    order, why = tree.rle_order, "as --rle-order says"
    if order is None:
        order, why = _order(tree, path, found, sources, sizes)
    names = class_names(sorted(classes, key=_numbers_first), place)
    split = split_of_file(path)
    items = []
    for image, rows in found.items():
        shapes = tuple(
            Shape(names.index(label), replace(runs, order=order), where)
            for label, runs, where in rows
        )
        name = image if _is_stem(image) else without_suffix(image)
        items.append(Annotated(name, sources[image], place, sizes[image], split, shapes))
    empty = sum(not item.shapes for item in items)
    way = "down the columns" if order == "columns" else "along the rows"
    notes = [f"run lengths are read {way}, {why}"]
    notes += [f"{counted(empty, 'image')} without any mask: all background"] if empty else []
    rest = sum(not MASKS & set(path.split("/")[:-1]) for path in tree.images) - len(items)
    notes += [f"{counted(rest, 'image')} that the csv does not name left out"] if rest > 0 else []
    return Annotations(names, items, unlabelled="background", notes=notes)


def parse_runs(text: str, place: str) -> Spans:
    """'1 3 10 5' → pixels 1 to 3 and 10 to 14."""
    words = text.split()
    if len(words) % 2 or not all(word.isdecimal() and len(word) < 16 for word in words):
        raise HfgdError(
            f"{place}: the run lengths {shown(text)} are no pairs of whole numbers 'start length'."
        )
    values = [int(word) for word in words]
    end = 0
    for first, length in zip(values[::2], values[1::2], strict=True):
        if first < end:
            raise HfgdError(
                f"{place}: the run '{first} {length}' begins before the end of the run before it: "
                "these are relative run lengths (as SIIM-ACR has them), each counted from the end "
                "of the one before, or they are not sorted. Convert them to absolute starts in "
                "ascending order first."
            )
        end = first + length
    return Spans(tuple(zip(values[::2], values[1::2], strict=True)))


def _is_stem(image: str) -> bool:
    """Whether the csv names images without their suffix."""
    return posixpath.splitext(image)[1].lower() not in IMAGE_SUFFIXES


def _source(tree: Tree, image: str, place: str, split: str | None) -> Source:
    return tree.source(tree.image(image, place, split=split, without=MASKS, stem=_is_stem(image)))


def _order(
    tree: Tree,
    path: str,
    found: dict[str, list[tuple[str, Spans, str]]],
    sources: dict[str, Source],
    sizes: dict[str, tuple[int, int] | None],
) -> tuple[RleOrder, str]:
    """How the runs count pixels, and why: what the masks look like, then what the header means.

    Read the wrong way a mask of an image that is not square falls into streaks, whose outline is
    many times longer; but a thin line along the runs gets shorter. Its runs go on in the next
    column or row then, which runs read the right way do only at the image's borders. In a square
    image both readings are equal but for a transposition.
    Raises HfgdError where neither masks nor header decide, or where the masks contradict themselves.
    """
    outline, pieces, measured = Counter[RleOrder](), Counter[RleOrder](), 0
    broken, runs_seen = Counter[RleOrder](), 0  # runs that go on in the next column or row
    for image, rows in found.items():
        if measured >= MEASURED or not rows:
            continue
        height, width = sizes[image] or upright(read_header(sources[image]))
        if height == width or height * width > LARGEST:
            continue
        measured += 1
        runs_seen += sum(len(runs.spans) for _, runs, _ in rows)
        for order, line in zip(ORDERS, (height, width), strict=True):
            for _, runs, where in rows:
                try:
                    mask = replace(runs, order=order).mask(height, width)
                except HfgdError as error:
                    raise HfgdError(f"{where}: {error}") from error
                edges = (mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum()
                outline[order] += int(edges)
                pieces[order] += int(ndimage.label(mask)[1])
                broken[order] += sum((a - 1) // line != (a + n - 2) // line for a, n in runs.spans)
    best, other = sorted(ORDERS, key=lambda order: outline[order])
    shown = outline[other] > CLEAR * outline[best] and pieces[best] <= pieces[other]
    doubted = broken[best] > 4 * broken[other] + runs_seen / 10
    if shown and not doubted:
        return best, f"as the outlines of {counted(measured, 'image')} show"
    header = _header(tree, path)
    if any(name in ROWWISE for name in header) or {"img", "rle_mask"} <= set(header):
        return "rows", "as competitions with this header count"
    known = next((name for name in COLUMNWISE if name in header), None)
    if known and not (shown and doubted):
        return "columns", f"as competitions with a column '{known}' count"
    if not any(found.values()):
        return "columns", "though there are none"
    raise HfgdError(
        f"{tree.place(path)} does not show whether its run lengths go down the columns or along the "
        "rows; look at one image, and say --rle-order columns or --rle-order rows."
    )


def _image_and_class(row: dict[str, str], where: str) -> tuple[str, str]:
    joined = next((row[key] for key in JOINED if key in row), None)
    if joined is not None:
        image, stroke, label = joined.rpartition("_")
        if not stroke:
            raise HfgdError(f"{where}: {shown(joined)} is not of the form 'image_class'.")
        return image, _named(label)
    image = next(row[key] for key in IMAGES if key in row).strip()
    if not image:
        raise HfgdError(f"{where} names no image.")
    labels = [row[key].strip() for key in CLASSES if key in row]
    return image, _named(labels[0]) if labels else ONLY_CLASS


def _named(label: str) -> str:
    """Numbers make poor names, but they are all there is."""
    return f"class {label}" if label.isdecimal() else label


def _rows(tree: Tree, path: str) -> Iterator[tuple[int, dict[str, str]]]:
    lines = tree.text(path).splitlines()
    csv.field_size_limit(1 << 30)  # masks of large images are long
    header, mark = _header(tree, path), _delimiter(lines[0])
    for number, row in enumerate(csv.reader(lines[1:], delimiter=mark), 2):
        if not row:
            continue
        if len(row) != len(header):
            raise HfgdError(
                f"{tree.place(path)}: line {number} has {len(row)} columns instead of "
                f"{len(header)}; it may be cut off."
            )
        yield number, dict(zip(header, row, strict=True))


def _header(tree: Tree, path: str) -> list[str]:
    first = tree.text(path).split("\n", 1)[0]
    return [name.strip().strip('"').strip().lower() for name in first.split(_delimiter(first))]


def _delimiter(header: str) -> str:
    """Spreadsheets write semicolons where the comma is for decimals."""
    return max(",;\t", key=header.count)


def _chosen(tree: Tree) -> str:
    good = []
    for path in tree.candidates(".csv"):
        header = _header(tree, path)
        if not any(name in (*IMAGES, *JOINED) for name in header):
            continue
        if any(name in (*RUNS, *ROWWISE) for name in header):
            good.append(path)
    if len(good) > 1:
        # beside the training masks lies a sample of what to submit
        good = [path for path in good if "sample" not in path.lower()] or good
    if len(good) == 1:
        return good[0]
    if good:
        raise HfgdError(
            f"'{tree.root}' has {len(good)} csv files with masks; give the one to import."
        )
    raise HfgdError(
        f"'{tree.root}' has no csv file with a column of images and one of run lengths "
        "(ImageId, EncodedPixels)."
    )


def _numbers_first(name: str) -> tuple[int, str]:
    digits = name.removeprefix("class ")
    return (int(digits), "") if digits.isdecimal() and len(digits) < 10 else (1 << 31, name)


KAGGLE = AnnotationFormat("kaggle", "Kaggle run-length csv: EncodedPixels", sniff, read)
