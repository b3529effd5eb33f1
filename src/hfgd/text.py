"""Names that come from files, as they may stand in a line, in Markdown, and in a cell of a CSV."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence

# control, line and paragraph separators, halves of characters, and what turns the direction of text
_CONTROL = ("Cc", "Zl", "Zp", "Cs")
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_MARKS = re.compile(r"[|<\[`]")  # what begins a column, HTML, a link, code
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_KEPT = re.compile(r"'+[=+\-@\t\r]")


def is_line(text: str) -> bool:
    """Whether a text is one line of letters that can be seen."""
    return not any(map(_is_control, text))


def one_line(text: str) -> str:
    """A text on one line: whatever is no letter of it becomes a blank."""
    return "".join(" " if _is_control(letter) else letter for letter in text)


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in _CONTROL or letter in _TURNING


def inline(text: object) -> str:
    """A text inside a line or a cell of Markdown, where it shows as it is."""
    return _MARKS.sub(r"\\\g<0>", one_line(str(text)))


def csv_cell(value: object) -> str:
    """A value as a cell: a text that a spreadsheet would take for a formula begins with a quote.

    ``csv_value`` is the way back. Numbers stay numbers.
    """
    text = "" if value is None else str(value)
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def csv_value(cell: str) -> str:
    """The text of a cell that ``csv_cell`` made."""
    return cell[1:] if _KEPT.match(cell) else cell


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as the lines of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([csv_cell(v) for v in row] for row in rows)
    return text.getvalue()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def counted(number: int, thing: str, plural: str | None = None) -> str:
    """'1 image', '3 images'."""
    return f"{number:,} {thing if number == 1 else plural or thing + 's'}"
