"""The files that a user points to: a folder, a zip, or one annotation file and what lies around it."""

import posixpath
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from hfgd.data.archive import Source, composed, is_leftover, list_files, read_bytes
from hfgd.data.images import IMAGE_SUFFIXES
from hfgd.errors import HfgdError
from hfgd.parse import parse_json, parse_yaml, refuse_special

ANNOTATIONS = ("annotation", "annotations", "ann", "labels")  # folders that hold no images
RleOrder = Literal["columns", "rows"]
LOOKED_AT = 100  # JSON files that are opened to find out a format
SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_OUTSIDE = re.compile(
    r"^[/\\]|^[A-Za-z][A-Za-z0-9+]*:|(^|[/\\])\.\.[/\\]"
)  # absolute, URL, upwards


class Tree:
    """Files by their path below ``root``, in Unicode's composed form, as ``clean`` gives names.

    ``given``: the one file that was named, if one was.

    ``skip``: a folder that does not count, since it is the one that is written. ``rle_order``: how
    run lengths count pixels, where the user says so.
    """

    def __init__(
        self, path: Path, skip: Path | None = None, rle_order: RleOrder | None = None
    ) -> None:
        path = path.expanduser()
        if not path.exists():
            raise HfgdError(f"there is no '{path}'; give the folder, zip or file to import.")
        refuse_special(path)
        self.given: str | None = None
        self.rle_order = rle_order
        self.root = path
        if path.is_dir():
            files = list_files(path, skip=skip)
        elif path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
            files = list_files(path)
        else:
            given, self.root = _around(path)
            self.given = composed(given)
            files = list_files(self.root, zips=False, skip=skip)
        self.files: dict[str, Source] = {}
        for name in sorted(filter(_counts, files), key=_depth):
            key = composed(name)  # where both forms are there, the second keeps its own
            self.files[name if key in self.files else key] = files[name]
        self.broken: HfgdError | None = None
        self._jsons: dict[str, Any] = {}

    def candidates(self, *suffixes: str) -> list[str]:
        """The named file, or all files with such a suffix, the least deep first."""
        names = self.files if self.given is None else [self.given]
        return [name for name in names if name.lower().endswith(suffixes)]

    def find(self, pattern: str) -> list[str]:
        """Paths whose end is the regular expression ``pattern``, from the start of a name."""
        compiled = re.compile(rf"(?:.*/)?{pattern}")
        return [name for name in self.files if compiled.fullmatch(name)]

    def place(self, name: str) -> str:
        """A file as it is named in a message."""
        return f"'{self.files[name]}'" if name in self.files else f"'{self.root / name}'"

    def text(self, name: str) -> str:
        """A text file. Raises HfgdError where it is none."""
        try:
            return read_bytes(self.files[name]).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise HfgdError(f"{self.place(name)} is no text in UTF-8 ({error.reason}).") from error
        except OSError as error:
            raise HfgdError(f"{self.place(name)} cannot be read ({error.strerror}).") from error

    def json(self, name: str, keep: bool = True) -> Any:
        """The content of a JSON file, read once, or once more where it is not kept.

        Raises HfgdError where it is broken.
        """
        if not keep and name in self._jsons:
            return self._jsons.pop(name)
        if name not in self._jsons:
            value = parse_json(self.text(name), self.place(name))
            if not keep:
                return value
            self._jsons[name] = value
        return self._jsons[name]

    def yaml(self, name: str) -> Any:
        """The content of a YAML file. Raises HfgdError where it is broken."""
        return parse_yaml(self.text(name), self.place(name))

    def peek(self, name: str) -> Any:
        """As ``json``, but a broken file is remembered in ``broken`` and gives None.

        A reader that peeked must look at ``broken``: it could be the other half of a data set.
        """
        try:
            return self.json(name)
        except HfgdError as error:
            self.broken = self.broken or error
            return None

    def image(
        self,
        name: str,
        place: str,
        near: Iterable[str] = (),
        split: str | None = None,
        without: frozenset[str] = frozenset(),
        stem: bool = False,
    ) -> str:
        """The path of the image that ``place`` calls ``name``, which may be the end of a path.

        ``near``: folders that are tried first. ``split``: decides between images of one name.
        ``without``: names of folders that hold labels and no images. ``stem``: without suffix.
        Raises HfgdError where there is none, or several.
        """
        wanted = clean(name)
        table = self._by_stem if stem else self._by_name
        same = {
            path: composed(posixpath.splitext(path)[0] if stem else path)
            for path in table.get(posixpath.basename(wanted), ())
            if not without.intersection(path.split("/")[:-1])
        }
        found: list[str] = []
        for folder in near:
            full = clean(f"{folder}/{name}")
            found = found or [path for path, end in same.items() if end == full]
        found = found or [p for p, end in same.items() if f"/{end}".endswith(f"/{wanted}")]
        if not found and _OUTSIDE.search(name):
            found = list(same)  # a path of another machine: its last part must do
        if len(found) > 1 and split is not None:
            found = [path for path in found if split_of_folders(path) == split] or found
        if len(found) == 1:
            return found[0]
        if found:
            raise HfgdError(
                f"{place} names the image '{name}', and there are {len(found)} of that name below "
                f"'{self.root}', '{found[0]}' and '{found[1]}' first; keep one."
            )
        if any(
            composed(posixpath.basename(path)) == posixpath.basename(wanted)
            and path not in self.images
            for path in self.files
        ):
            raise HfgdError(
                f"{place} names the image '{name}', which is of a kind that is not read "
                f"({', '.join(sorted(IMAGE_SUFFIXES))} are); convert it."
            )
        raise HfgdError(
            f"{place} names the image '{name}', and there is no such image below '{self.root}'; "
            "put the images there, or give the folder that holds both."
        )

    @cached_property
    def images(self) -> list[str]:
        """All files that are images by their suffix, masks too."""
        return [n for n in self.files if posixpath.splitext(n)[1].lower() in IMAGE_SUFFIXES]

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _grouped((composed(posixpath.basename(path)), path) for path in self.images)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped(
            (composed(posixpath.splitext(posixpath.basename(path))[0]), path)
            for path in self.images
        )

    def source(self, name: str) -> Source:
        """The file of that path."""
        return self.files[name]


def clean(name: str) -> str:
    """A path as it counts from the root: forward strokes, no '.', no drive, nothing above the root.

    In Unicode's composed form, as the keys of ``Tree.files``.
    """
    parts = re.sub(r"^[A-Za-z]:", "", name.replace("\\", "/")).split("/")
    kept: list[str] = []
    for part in parts:
        if part == ".." and kept:
            kept.pop()
        elif part not in ("", ".", ".."):
            kept.append(part)
    return composed("/".join(kept))


def without_suffix(name: str, split: str | None = None) -> str:
    """The name that an image gets in the data folder: its path, less a folder that names its split."""
    *folders, last = posixpath.splitext(clean(name))[0].split("/")
    kept = [folder for folder in folders if split is None or split_of_word(folder) != split]
    return "/".join([*kept, last])


def split_of_folders(path: str) -> str | None:
    """The split that a path's folders name, the nearest first: 'a/valid/x.jpg' is of val."""
    for part in reversed(path.split("/")[:-1]):
        split = split_of_word(part)
        if split is not None:
            return split
    return None


def split_of_file(path: str) -> str | None:
    """The split that a file's own name tells ('instances_train2017.json'), or its folders."""
    stem = posixpath.splitext(posixpath.basename(path))[0]
    named = {split_of_word(word) for word in re.split(r"[^A-Za-z0-9]+", stem)} - {None}
    return named.pop() if len(named) == 1 else split_of_folders(path)


def split_of_word(word: str) -> str | None:
    """train, val or test, for a word that means one of them: 'valid', 'train2017'."""
    bare = re.sub(r"\d+$", "", word.lower())
    return next((split for split, words in SPLITS.items() if bare in words), None)


def _around(path: Path) -> tuple[str, Path]:
    """The folder in which a named file's images are looked for, and the file's path below it."""
    folder = path.resolve().parent
    if folder.name.lower() in ANNOTATIONS:  # its images lie beside that folder
        return f"{folder.name}/{path.name}", folder.parent
    return path.name, path.parent


def _depth(name: str) -> tuple[int, str]:
    return name.count("/"), name


def _counts(name: str) -> bool:
    """Neither hidden nor left by an operating system."""
    return not any(part.startswith(".") or is_leftover(part) for part in name.split("/"))


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups
