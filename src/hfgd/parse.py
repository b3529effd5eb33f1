"""YAML and JSON that strangers wrote: plain values, or one sentence. Nothing else parses them.

A small text can ask for a lot: lists in lists until the stack ends, aliases of aliases that unfold to
billions of values, numbers of a million digits. Each has a bound that no honest file comes near.
"""

import json
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from hfgd.errors import HfgdError

DEPTH = 60  # lists and mappings inside one another
YAML_LETTERS = 2_000_000  # of a whole file
YAML_VALUES = 300_000  # aliases count as what they stand for
PIECE = 1 << 20  # letters of an XML text that are parsed at once
NUMBER = 400  # letters of a number: more than the largest float has
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # NUL, and halves of surrogate pairs
_ESCAPED = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_PLAIN = ("null", "bool", "int", "float", "timestamp", "str", "seq", "map")
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_WRONG = (ValueError, TypeError, KeyError, AttributeError, OverflowError)


def refuse_special(path: str | Path) -> None:
    """Raise HfgdError for a pipe, a socket or a device: reading one may never end.

    What does not exist is left to whoever opens it.
    """
    try:
        mode = os.stat(path).st_mode  # every image passes here: no Path is made of it
    except OSError:
        return
    except ValueError as error:
        raise HfgdError(f"{str(path)!r} is no path: it holds NUL.") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise HfgdError(f"'{path}' is a pipe, a socket or a device; give an ordinary file.")


def read_text(path: Path, name: str | None = None) -> str:
    """A text file in UTF-8. Raises HfgdError that names it (as ``name``) where it cannot be read."""
    name = name or f"'{path}'"
    refuse_special(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise HfgdError(f"{name} is no text in UTF-8 ({error.reason}).") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise HfgdError(f"{name} cannot be read ({reason}).") from error


def read_yaml(path: Path, name: str | None = None) -> Any:
    """The plain values of a YAML file; raises HfgdError that names it."""
    name = name or f"'{path}'"
    return parse_yaml(read_text(path, name), name)


def read_json(path: Path, name: str | None = None) -> Any:
    """The plain values of a JSON file; raises HfgdError that names it."""
    name = name or f"'{path}'"
    return parse_json(read_text(path, name), name)


def parse_yaml(text: str, name: str) -> Any:
    """The plain values of a YAML text; raises HfgdError that begins with ``name``."""
    if len(text) > YAML_LETTERS:
        raise HfgdError(
            f"{name} has {len(text):,} letters, and at most {YAML_LETTERS:,} are read as YAML."
        )
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise HfgdError(f"{name} is no valid YAML: {_short(error)}") from error
    except _WRONG as error:  # a date of month 13 raises ValueError, an odd tag what it likes
        raise HfgdError(
            f"{name} is no valid YAML: a value does not fit its kind ({_short(error)})."
        ) from error


def parse_json(text: str, name: str) -> Any:
    """The plain values of a JSON text; raises HfgdError that begins with ``name``."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise HfgdError(
            f"{name} is no valid JSON from line {error.lineno} on; it may be cut off."
        ) from error
    except RecursionError as error:
        raise HfgdError(f"{name} has more than {DEPTH} lists inside one another.") from error
    except ValueError as error:  # a number of more digits than Python converts
        raise HfgdError(f"{name} is no valid JSON: {_short(error)}") from error
    _refuse_deep(value, name)
    if _ESCAPED.search(text):
        _refuse_no_text(value, name)
    return value


def parse_xml(text: str, name: str) -> ElementTree.Element:
    """The root of an XML text; raises HfgdError that begins with ``name``.

    Document types are refused: they define entities, which can unfold to any size, or name files.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise HfgdError(f"{name} has a document type, which no annotation needs; remove it.")
    depth = 0
    root: ElementTree.Element | None = None
    parser: Any = ElementTree.XMLPullParser(("start", "end"))
    try:
        for at in range(0, len(text), PIECE):
            parser.feed(text[at : at + PIECE])
            for event, element in parser.read_events():
                root = element if root is None else root
                depth += 1 if event == "start" else -1
                if depth > DEPTH:
                    raise HfgdError(f"{name} has more than {DEPTH} elements inside one another.")
        parser.close()
    except (ElementTree.ParseError, ValueError) as error:
        raise HfgdError(f"{name} is no valid XML: {_short(error)}; it may be cut off.") from error
    if root is None:
        raise HfgdError(f"{name} is empty.")
    return root


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with bounds, checked while the text is read; plain values alone."""

    yaml_constructors = {  # noqa: RUF012
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in _PLAIN
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._sizes: dict[int, int] = {}  # of finished nodes, with all that is in them

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise _refused("an alias stands inside of what it names", mark)
            self._count(self._sizes[id(node)], mark)
            return node
        mark, before = self.peek_event().start_mark, self._values  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > DEPTH:
            raise _refused(f"there are more than {DEPTH} lists inside one another", mark)
        self._count(1, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._sizes[id(node)] = self._values - before
        if isinstance(node, yaml.ScalarNode):
            if node.tag in _NUMBERS and len(node.value) > NUMBER:
                raise _refused(f"a number has {len(node.value):,} letters", mark)
            if _NO_TEXT.search(node.value):
                raise _refused(
                    "a text has NUL or half of a surrogate pair, which is no letter", mark
                )
        return node

    def _count(self, number: int, mark: Any) -> None:
        self._values += number
        if self._values > YAML_VALUES:
            raise _refused(f"there are more than {YAML_VALUES:,} values, aliases unfolded", mark)


def _refused(why: str, mark: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=why, problem_mark=mark)


def _refuse_deep(value: Any, name: str) -> None:
    level = [value]
    for _ in range(DEPTH):
        level = [item for box in level for item in _items(box) if isinstance(item, list | dict)]
        if not level:
            return
    raise HfgdError(f"{name} has more than {DEPTH} lists inside one another.")


def _refuse_no_text(value: Any, name: str) -> None:
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str) and _NO_TEXT.search(item):
            raise HfgdError(
                f"{name} has a text with NUL or half of a surrogate pair, which is no letter."
            )
        rest += [*item, *item.values()] if isinstance(item, dict) else _items(item)


def _items(box: Any) -> Iterable[Any]:
    if isinstance(box, dict):
        return box.values()
    return box if isinstance(box, list) else ()


def _short(error: Exception) -> str:
    """What an error says, on one line and not all of it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}…"
