"""``write_page``: sections → one HTML file that holds everything it shows."""

import json
import math
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, TextIO

from hfgd import __version__
from hfgd.evaluation.page.sections import Gallery, GalleryItem, Section
from hfgd.files import write_whole

HERE = Path(__file__).parent
STYLES = {"curves": ["vendor/uplot.css"]}
SCRIPTS = {
    "table": ["table.js"],
    "matrix": ["matrix.js"],
    "curves": ["vendor/uplot.js", "curves.js"],
    "gallery": ["layers.js", "card.js", "gallery.js"],
}


def write_page(
    path: Path,
    title: str,
    sections: Sequence[Section],
    numbers: Mapping[str, str] | None = None,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write a page whole: headline ``numbers`` and ``facts`` (name → text), then the sections.

    A gallery's items are written as they come, so that their pictures are never all in memory.
    """

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8") as file:
            _write(file, title, sections, numbers or {}, facts or {})

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, write)


def _write(
    file: TextIO,
    title: str,
    sections: Sequence[Section],
    numbers: Mapping[str, str],
    facts: Mapping[str, str],
) -> None:
    kinds = list(dict.fromkeys(section.kind for section in sections))
    styles = [name for kind in kinds for name in STYLES.get(kind, [])]
    scripts = [name for kind in kinds for name in SCRIPTS[kind]]
    parts = {
        "title": escape(title),
        "version": escape(__version__),
        "style": "\n".join(_read(name) for name in [*styles, "page.css"]),
        "numbers": _pairs(numbers),
        "facts": _pairs(facts),
        "script": "\n".join(_read(name) for name in ["page.js", *scripts]),
    }
    # the file with {{names}} in it: text, name, text, name, …
    for place, piece in enumerate(re.split(r"\{\{(\w+)\}\}", _read("page.html"))):
        if place % 2 == 0:
            file.write(piece)
        elif piece == "sections":
            for text in _sections(sections):
                file.write(text)
        else:
            file.write(parts[piece])


def _sections(sections: Sequence[Section]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for section in sections:
        seen[section.kind] = seen.get(section.kind, 0) + 1
        name = section.kind + (f"-{seen[section.kind]}" if seen[section.kind] > 1 else "")
        yield f'<section id="{name}" data-kind="{section.kind}" aria-labelledby="{name}-title">\n'
        yield f'<h2 id="{name}-title">{escape(section.title)}</h2>\n'
        if section.note:
            yield f'<p class="note">{escape(section.note)}</p>\n'
        yield '<div class="body"></div>\n<script type="application/json">'
        yield from _data(section)
        yield "</script>\n</section>\n"


def _data(section: Section) -> Iterator[str]:
    if not isinstance(section, Gallery):
        yield _json(section.data())
        return
    yield _json(section.data())[:-1] + ', "items": ['
    for place, item in enumerate(section.items):
        yield (",\n" if place else "\n") + _json(_item(item))
    yield "]}"


def _item(item: GalleryItem) -> dict[str, Any]:
    return {
        "name": item.name,
        "size": item.size,
        "values": dict(item.values),
        "classes": {str(k): v for k, v in item.classes.items()},
        "tags": list(item.tags),
        "facts": dict(item.facts),
        "layers": {key: _url(picture) for key, picture in item.layers.items()},
    }


def _url(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "webp"
    return f"data:image/{kind};base64,{b64encode(picture).decode('ascii')}"


def _json(value: Any) -> str:
    """JSON that can stand inside a script element; None for NaN, which JSON does not have."""
    return json.dumps(_plain(value), allow_nan=False).replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _pairs(pairs: Mapping[str, str]) -> str:
    return "".join(
        f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>\n" for k, v in pairs.items()
    )


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
