"""Where bytes come from and go to: folders, and addresses that fsspec knows (s3://, gs://, …).

fsspec is an extra (``hfgd[remote]``) and is imported where an address is given.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hfgd.data.archive import paths_below
from hfgd.errors import HfgdError
from hfgd.files import is_disk_full, write_whole
from hfgd.parse import refuse_special

T = TypeVar("T")
ATTEMPTS, PAUSE = 3, 0.5  # how often a network is asked, and the seconds before the second time
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, HfgdError)


def is_address(place: str) -> bool:
    """Whether a place is one for fsspec; 'file://' is a folder of this machine."""
    return "://" in place and not place.startswith("file://")


def local(place: str | Path) -> str:
    """A path of this machine without its 'file://'."""
    return str(place).removeprefix("file://")


def file_system(address: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it. HfgdError for an unknown kind."""
    try:
        import fsspec
    except ImportError as error:
        raise HfgdError(f"'{address}' is read by fsspec; pip install 'hfgd[remote]'.") from error
    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise HfgdError(
            f"'{address}' needs a package that is not installed ({error}); for s3:// "
            "pip install 'hfgd[remote]'."
        ) from error
    except ValueError as error:
        raise HfgdError(f"'{address}' is no address that can be read ({error}).") from error
    return system, path


def patiently(place: str, work: Callable[[], T]) -> T:
    """The result of ``work``, tried again where it may help: a network that times out, for one.

    A missing file, a refusal and a full disk are final. Raises HfgdError when it was tried enough.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except Exception as error:  # botocore and aiohttp have exceptions of their own
            if isinstance(error, FINAL) or is_disk_full(error):
                raise
            if isinstance(error, OSError) and error.errno == errno.EIO and "://" not in place:
                raise  # a disk that is broken stays so
            if attempt == ATTEMPTS:
                said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                raise HfgdError(f"'{place}' was tried {ATTEMPTS} times ({said}).") from error
            time.sleep(PAUSE * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def read_place(place: str) -> bytes:
    """All bytes of a file or an address. Raises HfgdError for what cannot be read, saying why."""
    try:
        if is_address(place):
            system, path = file_system(place)
            data: bytes = patiently(place, lambda: system.cat_file(path))
            return data
        refuse_special(local(place))
        return patiently(place, Path(local(place)).read_bytes)
    except FileNotFoundError as error:
        raise HfgdError(f"there is no file '{place}'.") from error
    except PermissionError as error:
        raise HfgdError(f"no permission to read '{place}'.") from error


class Place(Protocol):
    """Files below one root, by their relative names with '/'."""

    root: str

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole: a kill leaves the old one or the new one."""

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""

    def names(self, below: str) -> Iterator[str]:
        """The files below a folder, relative to the root; none where there is no such folder."""

    def is_newer(self, name: str, source: str) -> bool:
        """Whether there is such a file, not older than the local file ``source``."""

    def remove(self, name: str) -> None:
        """Delete a file, where it is."""


def _inner(name: str) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        raise HfgdError(f"a result cannot be called '{name}', which leads out of its folder.")
    return name


class Folder:
    """A folder of this machine, or of a network file system that it mounts."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)

    def path(self, name: str) -> Path:
        """Where a file lies; raises HfgdError for a name that leads out of the root."""
        return Path(self.root, _inner(name))

    def write(self, name: str, data: bytes) -> None:
        """See Place."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda part: part.write_bytes(data))

    def read(self, name: str) -> bytes | None:
        """See Place."""
        path = self.path(name)
        return path.read_bytes() if path.is_file() else None

    def names(self, below: str) -> Iterator[str]:
        """See Place."""
        top = self.path(below)
        for path in paths_below(top) if top.is_dir() else ():
            yield os.path.relpath(path, self.root).replace(os.sep, "/")

    def is_newer(self, name: str, source: str) -> bool:
        """See Place."""
        try:
            written = os.stat(self.path(name)).st_mtime_ns
            return is_address(source) or written >= os.stat(source).st_mtime_ns
        except OSError:  # none there, or a name that is too long: writing it says so
            return False

    def remove(self, name: str) -> None:
        """See Place."""
        self.path(name).unlink(missing_ok=True)


class Bucket:
    """An address of fsspec: each file is one object, which its service writes whole.

    What is there is listed once, at the first question: a question for each image would take longer
    than its label. An object that exists counts as done, whatever its age.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._system, self._path = file_system(self.root)
        self._path = self._path.rstrip("/")
        self._known: set[str] | None = None

    def write(self, name: str, data: bytes) -> None:
        """See Place."""
        path = f"{self._path}/{_inner(name)}"
        if self._system.protocol in ("memory", ("memory",)):  # the others have no folders
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
        patiently(f"{self.root}/{name}", lambda: self._system.pipe_file(path, data))

    def read(self, name: str) -> bytes | None:
        """See Place."""
        try:
            data: bytes = patiently(
                f"{self.root}/{name}", lambda: self._system.cat_file(f"{self._path}/{name}")
            )
        except FileNotFoundError:
            return None
        return data

    def names(self, below: str) -> Iterator[str]:
        """See Place."""
        self._system.invalidate_cache()
        try:
            found = patiently(self.root, lambda: self._system.find(f"{self._path}/{below}"))
        except FileNotFoundError:
            return
        start = len(self._system._strip_protocol(self._path)) + 1
        for path in found:
            yield path[start:]

    def is_newer(self, name: str, source: str) -> bool:
        """See Place."""
        if self._known is None:
            self._known = {name for top in ("labels", "overlays") for name in self.names(top)}
        return name in self._known

    def remove(self, name: str) -> None:
        """See Place."""
        if self._system.exists(f"{self._path}/{name}"):
            self._system.rm_file(f"{self._path}/{name}")


def open_place(root: str | Path) -> Folder | Bucket:
    """The place that ``--out`` names."""
    return Bucket(str(root)) if is_address(str(root)) else Folder(local(root))
