"""Files of a data set wherever they lie: in folders, in zip archives, or packed in another file."""

import io
import lzma
import os
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from hfgd.errors import HfgdError
from hfgd.parse import refuse_special

# what operating systems and storage boxes put beside files; @eaDir holds thumbnails of images
LEFTOVERS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle"})
LARGEST = 1 << 30  # bytes of one file that an archive may unpack to
PIECE = 1 << 22
# an encrypted member raises RuntimeError, an unknown compression NotImplementedError
BROKEN_ZIP = (
    zipfile.BadZipFile, KeyError, OSError, EOFError, ValueError, RuntimeError, NotImplementedError,
    zlib.error, lzma.LZMAError, struct.error, IndexError, OverflowError,
)  # fmt: skip


class Entry(NamedTuple):
    """A file inside a zip archive."""

    archive: Path
    member: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.member.rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return f"{self.archive}:{self.member}"


@dataclass(frozen=True)
class Packed:
    """A file that another one holds: a cell of a table, a base64 text. ``place`` says which."""

    place: str
    name: str
    read: Callable[[], bytes]

    def __str__(self) -> str:
        return self.place


Source = Path | Entry | Packed


def opened(source: Source) -> "Path | io.BytesIO":
    """What PIL can open. Raises HfgdError for a damaged archive."""
    if isinstance(source, Path):
        refuse_special(source)
        return source
    if isinstance(source, Packed):
        return io.BytesIO(source.read())
    try:
        archive = _archive(source.archive, os.getpid())
        return io.BytesIO(read_bounded(archive, source.member, str(source)))
    except BROKEN_ZIP as error:
        raise HfgdError(f"'{source}' cannot be read from its archive ({error}).") from error


def read_bounded(archive: zipfile.ZipFile, member: str, name: str) -> bytes:
    """The bytes of a file in a zip. Raises HfgdError where it unpacks to more than ``LARGEST``.

    What the zip says of the size is not believed: no more than the bound is ever unpacked.
    """
    if archive.getinfo(member).file_size <= LARGEST:
        parts, size = [], 0
        with archive.open(member) as file:
            while (part := file.read(PIECE)) and size <= LARGEST:
                parts.append(part)
                size += len(part)
        if size <= LARGEST:
            return b"".join(parts)
    raise HfgdError(
        f"'{name}' unpacks to more than {LARGEST >> 20} MiB; unpack it, and make it smaller."
    )


@lru_cache(maxsize=8)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    """An open archive; each process has its own, for its own place in the file."""
    refuse_special(path)
    try:
        return zipfile.ZipFile(path)
    except BROKEN_ZIP as error:
        raise HfgdError(f"'{path}' is no readable zip archive ({error}).") from error


def read_bytes(source: Source) -> bytes:
    """All bytes of a file. Raises HfgdError for a damaged archive, OSError for a missing file."""
    handle = opened(source)
    return handle.read_bytes() if isinstance(handle, Path) else handle.getvalue()


def list_files(root: Path, zips: bool = True, skip: Path | None = None) -> dict[str, Source]:
    """Every file below a folder, and every file in the zips that lie in it, by relative path.

    ``root`` may itself be a zip. A file beats a zip's member of the same path. ``skip``: a folder
    that is not looked into.
    """
    if root.is_file():
        return _members(root)
    if not root.is_dir():
        raise HfgdError(f"there is no data folder '{root}'.")
    files: dict[str, Source] = {}
    for archive in sorted(root.glob("*.zip")) if zips else ():
        files |= _members(archive)
    return files | {path.relative_to(root).as_posix(): path for path in files_below(root, skip)}


def is_leftover(name: str) -> bool:
    """Whether a file or folder of that name was made by an operating system, not by the user."""
    return name.lower() in LEFTOVERS or name.startswith("._") or name == ".DS_Store"


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS writes 'é' as two characters, others as one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def told_apart(*names: object) -> list[str]:
    """Names in quotes for a message; with escapes where they look the same and are not."""
    texts = [str(name) for name in names]
    alike = len({composed(text) for text in texts}) < len(set(texts))
    return [ascii(text) if alike else f"'{text}'" for text in texts]


def files_below(folder: Path, skip: Path | None = None) -> list[Path]:
    """Every file below a folder, in order of its path. Links are followed, to folders too.

    A link back to a folder that it lies in is not entered again. A link to nothing counts as a
    file, so that reading it names it. ``skip``: a folder that is not looked into.
    """
    return list(map(Path, paths_below(folder, skip)))


def paths_below(folder: Path, skip: Path | None = None) -> list[str]:
    """The same as texts, which take a fifth of the memory."""
    passed = () if skip is None else (os.path.realpath(skip),)
    # in the order of Path: part by part
    return sorted(_walk(str(folder), passed), key=lambda path: path.replace(os.sep, "\0"))


def _walk(folder: str, above: tuple[str, ...]) -> Iterator[str]:
    """``above``: the real paths of the folders on the way here, and of what is passed over."""
    here = os.path.realpath(folder)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_leftover(entry.name):
                continue
            # for a link to itself the entry raises, where os.path says False
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                yield from _walk(entry.path, (*above, here))
            else:
                yield entry.path


def _members(path: Path) -> dict[str, Source]:
    archive = _archive(path, os.getpid())
    return {
        name: Entry(path, name)
        for name in archive.namelist()
        if not name.endswith("/") and not any(map(is_leftover, name.split("/")))
    }
