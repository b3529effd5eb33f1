"""What a data set shows before it is trained on: one class alone, turned labels, copies."""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import yaml
from PIL import Image

from hfgd.data.classes import IGNORE, ClassSet, LabelMap
from hfgd.data.dataset import SegDataset, label_of
from hfgd.data.duplicates import Print
from hfgd.data.images import TURNS, Pixels
from hfgd.errors import HfgdError

MANY_IGNORED = 0.03  # share of the pixels from which ignoring them may hide a class
MOST_READ = 200  # labels that training reads in search of a second class
FLAT = 0.99  # share of the pixels that are alike in an image that shows nothing
ALIKE = 2  # grey values by which they may differ
COPIES = 3  # images of the same pixels from which it is said
CLEARLY = 1.2  # times that edges fit better where labels are not of the upright image


def one_class(pixels: np.ndarray, classes: ClassSet, label_map: LabelMap | None) -> str | None:
    """Why there is one class alone to learn, and what to do; None where there are more, or none.

    ``pixels``: of the K classes, then ignored ones. ``label_map``: of the files, where it is known.
    """
    seen, ignored = np.flatnonzero(pixels[:-1]), pixels[-1] / max(1, pixels.sum())
    if len(seen) != 1 or (len(classes) == 1 and not ignored):
        return None
    name = classes.names[seen[0]]
    if label_map is not None and label_map.stores_indices(classes) and not seen[0] and ignored:
        return (
            f"the label files hold 0 and 255 alone, and 255 means ignore, so '{name}' is all there "
            f"is to learn; if 255 is a class, write into data.yaml: {_line(classes)}"
        )
    if ignored > MANY_IGNORED:
        return (
            f"'{name}' is all there is to learn, and {ignored:.0%} of the pixels are ignored; a "
            "class may be among these: see what label_map in data.yaml ignores, and what 255 means "
            "in the label files"
        )
    return f"'{name}' is the only class that occurs, so there is nothing to learn"


def _line(classes: ClassSet) -> str:
    """What data.yaml has to say of masks of 0 and 255."""
    names = classes.names if len(classes) > 1 else ("background", *classes.names)
    parts = {"classes": list(names)} if len(classes) == 1 else {}
    lines = parts | {"label_map": {0: names[0], 255: names[1]}}
    more = " (or another class than the first of them)" if len(classes) > 2 else ""
    return (
        "; ".join(
            yaml.safe_dump({key: value}, default_flow_style=None, width=10_000, allow_unicode=True)
            .strip()
            .replace("\n", " ")
            for key, value in lines.items()
        )
        + more
    )


def absent(pixels: np.ndarray, classes: ClassSet, split: str) -> list[str]:
    """A remark on classes that never occur, with the likely cause where many pixels are ignored."""
    names = [name for name, count in zip(classes.names, pixels, strict=False) if count == 0]
    if not names:
        return []
    remark = f"classes that never occur in '{split}': {', '.join(names)}"
    ignored = pixels[-1] / max(1, pixels.sum())
    if ignored > MANY_IGNORED:
        remark += (
            f"; {ignored:.0%} of the pixels are ignored, and theirs may be among these: see what "
            "label_map in data.yaml ignores, and what 255 means in the label files"
        )
    return [remark]


def refuse_one_class(dataset: SegDataset) -> str | None:
    """Look at labels until there are two classes, which the first one mostly has.

    Returns a warning where ``MOST_READ`` labels, or a part of the data set, show one class alone.
    Raises HfgdError where all labels do.
    """
    classes, pixels = dataset.classes, np.zeros(IGNORE + 1, dtype=np.int64)
    read = min(len(dataset), MOST_READ)
    for number in range(read):
        index = number * len(dataset) // read
        pixels += np.bincount(label_of(dataset, index).numpy().ravel(), minlength=IGNORE + 1)
        if np.count_nonzero(pixels[: len(classes)]) > 1:
            return None
    counts = np.append(pixels[: len(classes)], pixels[IGNORE])
    whole = getattr(dataset, "whole", dataset)
    wrong = one_class(counts, classes, getattr(whole, "label_map", None))
    if wrong is None:
        return None
    if read < len(whole):
        return f"{dataset.title}, {read} labels read: {wrong}; 'hfgd data check' reads all of them."
    raise HfgdError(f"{dataset.title}: {wrong}.")


def is_flat(pixels: Pixels, print_: Print) -> bool:
    """Whether an image is of one colour, or nearly so."""
    greys = np.sort(print_.thumbnail, axis=None)  # a small object may be in three of 72 values
    if int(greys[-4]) - int(greys[3]) > 4 * ALIKE:  # most images end here
        return False
    middle = np.median(pixels.reshape(-1, 3)[:: max(1, pixels.size // 300_000)], axis=0)
    near = np.abs(pixels.astype(np.int16) - middle).max(axis=2) <= ALIKE
    return bool(near.mean() >= FLAT)


def describe_flat(names: list[str], total: int) -> list[str]:
    """A remark on images that show nothing."""
    if not names:
        return []
    return [
        f"{len(names):,} of {total:,} images are of one colour, or nearly ({_first(names)}); deep "
        "images that were converted without scaling end like this"
    ]


def describe_copies(prints: Mapping[str, Print]) -> list[str]:
    """A remark on pictures that a split has many times."""
    names: dict[bytes, list[str]] = {}
    for name, print_ in prints.items():
        names.setdefault(print_.digest, []).append(name)
    groups = sorted((group for group in names.values() if len(group) >= COPIES), key=len)[::-1]
    if not groups:
        return []
    copies = sum(map(len, groups))
    return [
        f"{copies:,} images are the same picture as others, pixel by pixel; {len(groups[0]):,} "
        f"times the same one ({_first(groups[0])})"
    ]


def edge_fit(pixels: Pixels, label: Pixels, orientation: int) -> tuple[float, float] | None:
    """How much brighter or darker an upright image gets where its label changes, against all of it.

    Twice: with the label as it is, and turned as EXIF turns the image. None where the label cannot
    be of the image as stored, or does not change.
    """
    turned = np.asarray(Image.fromarray(label).transpose(TURNS[orientation]))
    if turned.shape != label.shape or label.shape != pixels.shape[:2]:
        return None
    grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.int16)
    across, down = np.abs(np.diff(grey, axis=1)), np.abs(np.diff(grey, axis=0))
    usual = (across.sum() + down.sum()) / max(1, across.size + down.size)

    def fit(labels: Pixels) -> float:
        right, below = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
        count = np.count_nonzero(right) + np.count_nonzero(below)
        return float((across[right].sum() + down[below].sum()) / max(1, count) / max(usual, 1e-9))

    fits = fit(label), fit(turned)
    return None if fits == (0, 0) else fits


def describe_turned(
    turned: Mapping[str, tuple[float, float] | None], total: int
) -> tuple[list[str], list[str]]:
    """Problems and remarks on images that EXIF turns, with how their labels fit as in edge_fit."""
    if not turned:
        return [], []
    fits = [fit for fit in turned.values() if fit is not None]
    upright, stored = (sum(fit[i] for fit in fits) for i in (0, 1))
    which = f"{len(turned):,} of {total:,} images are turned upright by EXIF ({_first(turned)})"
    if stored > CLEARLY * upright:
        return [
            f"{which}, and their labels fit the images as stored: edges there are "
            f"{stored / max(upright, 1e-9):.1f} times as strong; {REMEDY}"
        ], []
    return [], [f"{which}; their labels are taken to be upright as well"]


REMEDY = (
    "take the orientation out of the images (exiftool -Orientation= IMAGES), or turn the labels"
)


def two_kinds(files: Iterable[np.ndarray], classes: ClassSet, label_map: LabelMap) -> list[str]:
    """A remark where some masks of two classes hold 0 and 255, and the others 0 and 1.

    ``files``: pixels of the two classes and ignored ones, for each file.
    """
    if len(classes) != 2 or not label_map.stores_indices(classes):
        return []
    kinds = Counter((bool(pixels[1]), bool(pixels[2])) for pixels in files)
    wide, narrow = kinds[False, True], kinds[True, False]
    if not wide or not narrow or kinds[True, True]:
        return []
    return [
        f"{wide:,} label files hold 0 and 255 alone, and {narrow:,} hold 1 and no 255; 255 means "
        "ignore in all of them, so bring them to one form if it is a class"
    ]


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 3:,} more" if len(listed) > 3 else ""
    return ", ".join(f"'{name}'" for name in listed[:3]) + more
