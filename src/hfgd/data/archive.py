"""Files of a data set wherever they lie: in folders, or in zip archives that were never unpacked."""

import io
import os
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from hfgd.errors import HfgdError


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


Source = Path | Entry


def opened(source: Source) -> "Path | io.BytesIO":
    """What PIL can open. Raises HfgdError for a damaged archive."""
    if isinstance(source, Path):
        return source
    try:
        return io.BytesIO(_archive(source.archive, os.getpid()).read(source.member))
    except (zipfile.BadZipFile, KeyError, OSError, EOFError) as error:
        raise HfgdError(f"'{source}' cannot be read from its archive ({error}).") from error


@lru_cache(maxsize=8)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    """An open archive; each process has its own, for its own place in the file."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise HfgdError(f"'{path}' is no readable zip archive ({error}).") from error


def list_files(root: Path) -> dict[str, Source]:
    """Every file below a folder, and every file in the zips that lie in it, by relative path.

    ``root`` may itself be a zip. A file beats a zip's member of the same path.
    """
    if root.is_file():
        return _members(root)
    if not root.is_dir():
        raise HfgdError(f"there is no data folder '{root}'.")
    files: dict[str, Source] = {}
    for archive in sorted(root.glob("*.zip")):
        files |= _members(archive)
    for folder, _, names in os.walk(root, followlinks=True):
        below = Path(folder)
        for name in names:
            path = below / name
            files[path.relative_to(root).as_posix()] = path
    return files


def _members(path: Path) -> dict[str, Source]:
    archive = _archive(path, os.getpid())
    return {n: Entry(path, n) for n in archive.namelist() if not n.endswith("/")}
