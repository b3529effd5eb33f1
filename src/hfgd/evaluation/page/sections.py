"""What a page can hold: a table, a matrix, curves, a gallery. Plain data; the page draws it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hfgd.data.classes import ClassSet

Number = float | int | None  # None, or NaN: there is none


@dataclass(frozen=True)
class Table:
    """Rows that sort by a click on a column's title. A cell is text or a number.

    ``digits``: decimals that numbers of a column are shown with (0 where not named).
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Number]]
    digits: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
    colours: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)  # of first cells

    kind = "table"

    def data(self) -> dict[str, Any]:
        """For the page's script."""
        return {
            "columns": [{"title": c, "digits": self.digits.get(c, 0)} for c in self.columns],
            "rows": [list(row) for row in self.rows],
            "colours": {name: list(colour) for name, colour in self.colours.items()},
        }


@dataclass(frozen=True)
class Matrix:
    """Counts of pixels by label (rows) and prediction (columns), one matrix for each model."""

    title: str
    names: Sequence[str]
    counts: Mapping[str, Sequence[Sequence[int]]]
    note: str = ""

    kind = "matrix"

    def data(self) -> dict[str, Any]:
        """For the page's script."""
        return {
            "names": list(self.names),
            "matrices": [{"title": t, "counts": c} for t, c in self.counts.items()],
        }


@dataclass(frozen=True)
class Plot:
    """Lines over ``x``; a line's values may be None. ``log``: of the vertical axis."""

    title: str
    x_title: str
    x: Sequence[float]
    lines: Mapping[str, Sequence[Number]]
    log: bool = False


@dataclass(frozen=True)
class Curves:
    """Plots one below the other."""

    title: str
    plots: Sequence[Plot]
    note: str = ""

    kind = "curves"

    def data(self) -> dict[str, Any]:
        """For the page's script."""
        plots = [
            {"title": p.title, "xTitle": p.x_title, "x": list(p.x), "log": p.log}
            | {"lines": [{"title": t, "y": list(y)} for t, y in p.lines.items()]}
            for p in self.plots
        ]
        return {"plots": plots}


@dataclass(frozen=True)
class Layer:
    """One position of the gallery's switch; the photograph itself is always the first.

    ``kind``: ``labels`` colours class ids; ``heat`` colours 0..255, bright where high, or where low
    with ``invert``; ``error`` marks where ``labels`` layer ``of[1]`` differs from ``of[0]``; ``gain``
    shows which of the two models is right about ``of[0]`` with its ``of[1]``. ``error`` and ``gain``
    need no pictures of their own.
    ``by_model``: each model has its own, and the page's slider goes from one to the other.
    """

    key: str
    title: str
    kind: Literal["labels", "heat", "error", "gain"]
    hint: str = ""
    by_model: bool = False
    of: tuple[str, str] | None = None
    invert: bool = False


@dataclass(frozen=True)
class Sort:
    """One order of the gallery: by ``Item.values[key]``, shown as percent.

    ``key`` "class": by ``Item.classes`` of the chosen class, or the lowest where none is chosen.
    """

    key: str
    title: str
    descending: bool = False


@dataclass(frozen=True)
class GalleryItem:
    """One image of a gallery.

    ``size``: height and width of its pictures. ``layers``: a layer's key → its picture as
    ``pictures.py`` encodes it; "image" is the photograph; with models, ``key/0``, ``key/1`` and so on
    where the layer is by model. ``values``: what it can be sorted by, fractions. ``classes``: ids
    that it is filtered by → a fraction, or None. ``tags``: further words to filter by. ``facts``:
    lines for the large view.
    """

    name: str
    size: tuple[int, int]
    layers: Mapping[str, bytes]
    values: Mapping[str, Number] = field(default_factory=dict)
    classes: Mapping[int, Number] = field(default_factory=dict)
    tags: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """Images with a switch, sliders, sorting and filters. ``items`` are taken one at a time.

    ``models``: two or more names give a slider from one to the other.
    """

    title: str
    classes: ClassSet
    layers: Sequence[Layer]
    items: Iterable[GalleryItem]
    sorts: Sequence[Sort] = ()
    models: Sequence[str] = ()
    note: str = ""

    kind = "gallery"

    def data(self) -> dict[str, Any]:
        """For the page's script, without the items."""
        return {
            "classes": list(self.classes.names),
            "palette": [list(colour) for colour in self.classes.palette],
            "layers": [
                {"key": x.key, "title": x.title, "kind": x.kind, "hint": x.hint, "of": x.of}
                | {"byModel": x.by_model, "invert": x.invert}
                for x in self.layers
            ],
            "sorts": [
                {"key": s.key, "title": s.title, "descending": s.descending} for s in self.sorts
            ],
            "models": list(self.models),
        }


Section = Table | Matrix | Curves | Gallery
