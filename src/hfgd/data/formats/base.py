"""What every reader gives back, and the checks that they share."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from hfgd.data.archive import Source
from hfgd.data.classes import IGNORE, LabelMap, Rgb
from hfgd.data.formats.regions import Region
from hfgd.data.images import Pixels
from hfgd.errors import HfgdError
from hfgd.text import counted

if TYPE_CHECKING:
    from hfgd.data.formats.tree import Tree

UNLABELLED = 254  # in a reader's label map: nobody said anything of this pixel
MOST_CLASSES = UNLABELLED
LARGEST = 1 << 53  # beyond it a float is not each whole number
IGNORED = ("ignore", "__ignore__")  # class names that mean: nothing counts here


@dataclass(frozen=True)
class Shape:
    """A region of one class. ``place`` says where it was read, for messages.

    ``below``: painted before the others whatever the rule for overlaps, since it is coarse.
    """

    class_index: int
    region: Region
    place: str
    below: bool = False


@dataclass(frozen=True)
class Annotated:
    """An image and what was said of it: ``shapes``, or a whole ``label`` map of class indices.

    ``name``: the image's path in the data folder without suffix. ``place``: the annotating file.
    ``size``: height and width of the image as the annotations state them. ``split``: train, val or
    test where the source says so. ``mask``: its header is compared before ``label`` reads it.
    ``unannotated``: the source lists the image and says nothing of it.
    """

    name: str
    image: Source
    place: str
    size: tuple[int, int] | None = None
    split: str | None = None
    shapes: tuple[Shape, ...] = ()
    label: Callable[[], Pixels] | None = None  # class indices, UNLABELLED and IGNORE
    mask: Source | None = None  # the file that ``label`` reads
    unannotated: bool = False  # listed by the source, without any annotation


@dataclass
class Annotations:
    """All that a reader found. ``unlabelled``: 'ignore', or the class that the format gives to
    pixels that nobody labelled. ``notes``: what a user should know, a sentence each.
    """

    classes: list[str]
    items: list[Annotated]
    colours: dict[str, Rgb] = field(default_factory=dict)
    unlabelled: str = "ignore"
    notes: list[str] = field(default_factory=list)


class AnnotationFormat(NamedTuple):
    """A way in: ``sniff`` says why files look like this format, or None; ``read`` reads them."""

    name: str
    title: str
    sniff: Callable[["Tree"], str | None]
    read: Callable[["Tree"], Annotations]


def class_names(names: Iterable[Any], place: str) -> list[str]:
    """Class names without blanks around them; raises HfgdError for an empty or repeated one."""
    stripped = [str(name).strip() for name in names]
    seen: set[str] = set()
    for name in stripped:
        if not name:
            raise HfgdError(f"{place} has a class without a name.")
        if "\0" in name:
            raise HfgdError(f"{place} has a class with NUL in its name.")
        if name in seen:
            raise HfgdError(
                f"{place} lists the class {shown(name)} twice; class names must differ."
            )
        seen.add(name)
    if not 1 <= len(stripped) <= MOST_CLASSES:
        raise HfgdError(f"{place} has {len(stripped)} classes; 1 to {MOST_CLASSES} are possible.")
    return stripped


def take(record: Any, key: str, kind: type | tuple[type, ...], place: str) -> Any:
    """``record[key]``, which must be there and be of that kind."""
    if not isinstance(record, dict) or key not in record:
        raise HfgdError(f"{place} has no '{key}'.")
    value = record[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise HfgdError(f"{place}: '{key}' is {shown(value)}, which cannot be.")
    return value


def whole(value: Any, place: str, key: str) -> int:
    """A whole number that may be written as 3, 3.0 or '3'; up to those that a float has exactly."""
    try:
        number = float(value)
        if not isinstance(value, bool) and abs(number) < LARGEST and number == int(number):
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise HfgdError(f"{place}: '{key}' is {shown(value)}, not a whole number.")


def numbers(values: Any, place: str, key: str) -> tuple[float, ...]:
    """Finite numbers from a list; raises HfgdError for anything else."""
    if isinstance(values, list | tuple) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and -LARGEST < v < LARGEST
        for v in values
    ):
        return tuple(float(v) for v in values)
    raise HfgdError(f"{place}: '{key}' is {shown(values)}, not a list of numbers.")


def points(values: Any, place: str, key: str) -> tuple[float, ...]:
    """[[x, y], …] as x, y, x, y, …"""
    if not isinstance(values, list):
        raise HfgdError(f"{place}: '{key}' is {shown(values)}, not a list of points.")
    flat: list[float] = []
    for point in values:
        pair = numbers(point, place, key)
        if len(pair) != 2:
            raise HfgdError(f"{place}: '{key}' has a point of {len(pair)} numbers.")
        flat += pair
    return tuple(flat)


def size_of(record: Any, height: str, width: str, place: str) -> tuple[int, int] | None:
    """Height and width that a record states, or None where it states neither."""
    if not isinstance(record, dict):
        raise HfgdError(f"{place} is {shown(record)}, not a record with '{height}' and '{width}'.")
    if record.get(height) is None or record.get(width) is None:
        return None
    size = whole(record[height], place, height), whole(record[width], place, width)
    if min(size) < 1:
        raise HfgdError(f"{place}: an image of {size[0]}×{size[1]} cannot be.")
    return size


def read_ids(label_map: LabelMap, source: Source, known: str) -> Pixels:
    """A label image through its table; ``known``: the file that lists the values that may occur."""
    label, strange = label_map.try_load(source)
    if strange:
        raise HfgdError(
            f"'{source}' holds {label_map.describe(strange)}, and {known} lists no such."
        )
    return label


def shown(value: Any) -> str:
    """A value as it is quoted in a message, not too long."""
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        text = f"a {type(value).__name__} of very many digits"
    return text if len(text) <= 40 else f"{text[:37]}…"


__all__ = [
    "IGNORE",
    "IGNORED",
    "MOST_CLASSES",
    "UNLABELLED",
    "Annotated",
    "AnnotationFormat",
    "Annotations",
    "Shape",
    "class_names",
    "counted",
    "numbers",
    "points",
    "read_ids",
    "shown",
    "size_of",
    "take",
    "whole",
]
