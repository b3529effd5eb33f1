"""The classes of a data set: names in training order, colours, and the one ignore id."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, overload

from pydantic import Field

from hfgd.errors import HfgdError
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
