"""From the raw values of label files to training ids: one explicit table, applied once, at load."""

import re
from collections.abc import Mapping

import numpy as np

from hfgd.data.archive import Source
from hfgd.data.classes import IGNORE, ClassSet
from hfgd.data.images import Pixels
from hfgd.data.label_files import Ids, read_label
from hfgd.errors import HfgdError, unknown

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
