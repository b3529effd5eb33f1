"""Tables on stdout: on a terminal folded at spaces alone, in a pipe whole, one row a line."""

import sys
import textwrap
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table

from hfgd.text import one_line

WORDS = ("what", "what it is", "class")  # columns that may be folded at their spaces
GAP = "  "


def show(table: Table, below: Sequence[str] = ()) -> None:
    """Print a table whole: nothing is cut and no word broken, whatever the width.

    ``below``: columns that go into a line of their own under each row where the terminal is too
    narrow for all. Cells are taken as they are, never as rich's markup.
    """
    for column in table.columns:  # names of models and classes may come from anybody
        column._cells = [one_line(str(text)) for text in column.cells]
    table.title = one_line(str(table.title)) if table.title else None
    if not sys.stdout.isatty():
        print(plain(table))
        return
    console = Console(markup=False, emoji=False, highlight=False)
    if least_width(table) > console.width:
        print(stacked(table, below, console.width))
        return
    for column in table.columns:
        column.no_wrap = column.header not in WORDS
    table.box, table.show_edge = box.SIMPLE_HEAD, False
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    title, table.title = table.title, None  # rich would break a long one to the table's width
    if title:
        console.print(f"{title}\n", style="italic", soft_wrap=True)
    console.print(table)


def plain(table: Table) -> str:
    """A table as text: its title, the names of the columns, a line for each row."""
    return "\n".join([*_title(table), *_aligned(table.columns)])


def stacked(table: Table, below: Sequence[str], width: int) -> str:
    """The same with the columns ``below`` under each row, folded at spaces to ``width``."""
    upper = [column for column in table.columns if column.header not in below]
    lower = [_texts(column) for column in table.columns if column.header in below]
    folded = textwrap.TextWrapper(
        width,
        initial_indent=GAP,
        subsequent_indent=GAP,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = _title(table)
    for row, *details in zip(_aligned(upper), *lower, strict=True):
        lines += [row, *folded.wrap(" · ".join(filter(None, details)))]
    return "\n".join(lines)


def least_width(table: Table) -> int:
    """The width at which no word of a table is broken; only the columns of WORDS can be folded."""
    total = -len(GAP)
    for column in table.columns:
        texts = _texts(column)
        if column.header in WORDS:
            texts = [word for text in texts for word in text.split()]
        total += len(GAP) + max(map(cell_len, texts), default=0)
    return total


def _title(table: Table) -> list[str]:
    return [str(table.title)] if table.title else []


def _texts(column: Column) -> list[str]:
    """A column's name and cells, each on one line."""
    return [" ".join(str(cell).split()) for cell in (column.header, *column.cells)]


def _aligned(columns: Sequence[Column]) -> list[str]:
    """The lines of a table, each column as wide as its widest cell."""
    padded = []
    for column in columns:
        texts = _texts(column)
        width = max(map(cell_len, texts))
        fills = [" " * (width - cell_len(text)) for text in texts]
        right = column.justify == "right"
        padded.append([f + t if right else t + f for t, f in zip(texts, fills, strict=True)])
    return [GAP.join(row).rstrip() for row in zip(*padded, strict=True)]
