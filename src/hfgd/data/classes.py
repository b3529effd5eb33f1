"""The classes of a data set, and the map from the values in label files to class ids."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, overload

import numpy as np
from pydantic import Field

from hfgd.data.archive import Source
from hfgd.data.images import Pixels
from hfgd.data.label_files import Ids, read_label
from hfgd.errors import HfgdError, unknown
from hfgd.text import is_line

IGNORE = 255  # the label id that no loss and no score counts

Channel = Annotated[int, Field(ge=0, le=255)]
Rgb = tuple[Channel, Channel, Channel]


@dataclass(frozen=True)
class ClassSet:
    """Class names in the order of the logits, and one RGB colour (0..255) for each."""

    names: tuple[str, ...]
    palette: tuple[Rgb, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= IGNORE:
            raise HfgdError(f"a data set has 1 to {IGNORE} classes, not {len(self.names)}.")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise HfgdError(f"class '{twice[0]}' is listed twice; class names must differ.")
        for name in self.names:
            if not is_line(name):
                raise HfgdError(f"class {name!r}: a name is one line without control characters.")
        if len(self.palette) != len(self.names):
            raise HfgdError(
                f"{len(self.palette)} colours for {len(self.names)} classes; give one for each."
            )
        for name, colour in zip(self.names, self.palette, strict=True):
            if not all(0 <= channel <= 255 for channel in colour):
                raise HfgdError(
                    f"class '{name}': the colour {list(colour)} is no RGB of 0 to 255; mend it."
                )

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        """The name of a class id, or the names of a slice."""
        return self.names[index]

    @classmethod
    def of(cls, names: Sequence[str], palette: Sequence[Rgb] | None = None) -> "ClassSet":
        """Classes with the given colours, or with VOC's bit-shift colours without them."""
        colours = palette or [voc_colour(i + 1) for i in range(len(names))]  # 0 would be black
        return cls(tuple(names), tuple((c[0], c[1], c[2]) for c in colours))

    @classmethod
    def numbered(cls, count: int) -> "ClassSet":
        """``count`` classes without names of their own."""
        return cls.of([f"class {i}" for i in range(count)])


def refuse_misread(names: Iterable[object], place: str) -> None:
    """Raise HfgdError for a class name that YAML reads as something else than text.

    ``place``: the file and the key, for the message.
    """
    for number, name in enumerate(names, start=1):
        if isinstance(name, bool):
            words = "yes, on or true" if name else "no, off or false"
            found, example = f"the truth value that {words} stand for", "'yes'" if name else "'no'"
        elif name is None:
            found, example = "nothing, which null, ~ or an empty entry stand for", "'null'"
        elif isinstance(name, date):
            found, example = f"the date {name.isoformat()}", f"'{name.isoformat()}'"
        elif isinstance(name, int | float):
            found, example = f"the number {name}", f"'{name}'"
        else:
            continue
        raise HfgdError(
            f"{place}: YAML reads name {number} as {found}; write it in quotes, as in {example}."
        )


def voc_colour(index: int) -> Rgb:
    """Pascal VOC's colour of a class id: its bits, dealt to red, green and blue in turn."""
    red = green = blue = 0
    for bit in range(8):
        red |= (index >> 0 & 1) << (7 - bit)
        green |= (index >> 1 & 1) << (7 - bit)
        blue |= (index >> 2 & 1) << (7 - bit)
        index >>= 3
    return red, green, blue


# ---- label maps ----------------------------------------------------------------------------------


_COLOUR = re.compile(r"#([0-9a-f]{6})|\(?(\d{1,3})[,\s]+(\d{1,3})[,\s]+(\d{1,3})\)?", re.IGNORECASE)
_UNKNOWN = -1


class LabelMap:
    """Raw id, or RGB colour, → class index or IGNORE. Values outside the table are refused."""

    def __init__(self, table: Mapping[int, int], colours: bool = False) -> None:
        most = (1 << 24) - 1 if colours else (1 << 16) - 1
        strange = [value for value in table if not 0 <= value <= most]
        if strange:
            raise HfgdError(
                f"the value {strange[0]} of a label map is none that a label image can hold: they "
                f"go from 0 to {most}."
            )
        self.table = dict(table)
        self.colours = colours
        # one place more than the largest value, so that everything beyond it is clipped to unknown
        self._lookup = np.full(max(table, default=0) + 2, _UNKNOWN, dtype=np.int16)
        for raw, index in table.items():
            self._lookup[raw] = index

    @classmethod
    def identity(cls, classes: ClassSet) -> "LabelMap":
        """Label files that hold class indices, and 255 where nothing counts."""
        return cls({i: i for i in range(len(classes))} | {IGNORE: IGNORE})

    @classmethod
    def parse(cls, entries: Mapping[str | int, str], classes: ClassSet, where: str) -> "LabelMap":
        """A ``label_map`` from YAML: ids, ``"r, g, b"`` or ``"#rrggbb"`` → class name or 'ignore'."""
        keys = [_parse_key(key, where) for key in entries]
        if len({colour for _, colour in keys}) > 1:
            raise HfgdError(f"{where}: label_map mixes ids and colours; use one kind of key.")
        if len({value for value, _ in keys}) < len(keys):
            raise HfgdError(f"{where}: label_map lists a value twice; keep one entry for each.")
        targets = dict(zip(classes.names, range(len(classes)), strict=True)) | {"ignore": IGNORE}
        table = {}
        for (value, _), name in zip(keys, entries.values(), strict=True):
            if str(name) not in targets:
                raise HfgdError(f"{where}: label_map: {unknown('class', str(name), targets)}")
            table[value] = targets[str(name)]
        return cls(table, colours=keys[0][1] if keys else False)

    def load(self, path: Source) -> Pixels:
        """A label file as training ids (H, W) uint8, IGNORE where nothing counts.

        Raises HfgdError for an unreadable file and for values outside the table, naming both.
        """
        label, strange = self.try_load(path)
        if strange:
            raise HfgdError(
                f"label '{path}' holds {self.describe(strange)}, which the label map does not "
                "list; add them to label_map in data.yaml, or map them to ignore."
            )
        return label

    def stores_indices(self, classes: ClassSet) -> bool:
        """Whether label files hold class indices, and 255 where nothing counts."""
        return self.table == LabelMap.identity(classes).table and not self.colours

    def try_load(self, path: Source, extras: list[str] | None = None) -> tuple[Pixels, list[int]]:
        """The label, IGNORE at values outside the table, and those values in order.

        ``extras``: as in ``read_label``.
        """
        raw: Ids = read_label(path, self.colours, extras)
        mapped = np.take(self._lookup, raw, mode="clip")
        unknown_here = mapped == _UNKNOWN
        if raw.min(initial=0) < 0:
            unknown_here |= raw < 0
        if not unknown_here.any():
            return mapped.astype(np.uint8), []
        strange = np.unique(raw[unknown_here]).tolist()
        return np.where(unknown_here, IGNORE, mapped).astype(np.uint8), strange

    def describe(self, values: list[int]) -> str:
        """Raw values as a user writes them: the first few, and how many more."""
        shown = ", ".join(f"#{v:06x}" if self.colours else str(v) for v in values[:8])
        more = f" and {len(values) - 8} more" if len(values) > 8 else ""
        return f"{'colours' if self.colours else 'ids'} {shown}{more}"


def _parse_key(key: str | int, where: str) -> tuple[int, bool]:
    """The raw value of a YAML key, and whether it is a colour."""
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < 1 << 16:
        return key, False
    text = str(key).strip()
    if text.isdecimal() and int(text) < 1 << 16:
        return int(text), False
    match = _COLOUR.fullmatch(text)
    if match:
        hexadecimal, *parts = match.groups()
        red, green, blue = bytes.fromhex(hexadecimal) if hexadecimal else map(int, parts)
        if max(red, green, blue) <= 255:
            return red << 16 | green << 8 | blue, True
    raise HfgdError(
        f"{where}: label_map key '{key}' is neither an id from 0 to 65535 nor a colour; "
        'write a colour as "128, 64, 0" or "#804000".'
    )
