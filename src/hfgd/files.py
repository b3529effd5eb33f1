"""Writing files so that a kill at any moment leaves either the old one or the new one."""

import errno
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

from hfgd.errors import HfgdError

LONGEST_NAME = 255  # bytes, on nearly every file system
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def inside(
    root: Path,
    name: str,
    place: str,
    below: str = "",
    real: Callable[[str | Path], str] = os.path.realpath,
) -> Path:
    """Return the path ROOT/BELOW/NAME of a foreign ``name``, which never leads out of ``root``.

    ``name``: relative, with '/' between folders. ``place``: what holds the name, for the message.
    ``real``: ``os.path.realpath``, or a cache of it for many names in few folders.
    Raises HfgdError for a name that is absolute, leads upwards, or cannot be a file on every system,
    and where a link below ``root`` leads out of it.
    """
    if not is_relative_name(name):
        raise HfgdError(f"{place}: an image cannot be called {name!r}; rename it.")
    path = root / below / name
    folder, top = os.path.normcase(real(path.parent)), os.path.normcase(real(root))
    if folder != top and not folder.startswith(top.rstrip(os.sep) + os.sep):
        raise HfgdError(
            f"{place}: '{path}' would lie outside '{root}', through a link; remove the link, or "
            "choose another folder."
        )
    return path


def is_relative_name(name: str) -> bool:
    """Whether a name stays inside whatever folder it is put into."""
    *folders, last = name.split("/")
    if not last or name.startswith("/") or "\\" in name or ".." in (*folders, last):
        return False
    if _CONTROL.search(name) or _DRIVE.match(name):
        return False
    return os.name != "nt" or not (":" in name or PureWindowsPath(name).is_reserved())


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path``, then put it in its place at once."""
    part = part_of(path)
    try:
        write(part)
        mode = "r+b" if os.name == "nt" else "rb"  # Windows flushes only what may be written
        with part.open(mode) as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:  # Ctrl-C too
        part.unlink(missing_ok=True)  # a full disk has room again
        if is_disk_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        if isinstance(error, OSError) and error.filename == str(part):  # the user's name for it
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def part_of(path: Path) -> Path:
    """Where a file is written before it is whole: beside it, under a name that is not too long."""
    name = f".{path.name}.part"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}.part"
    return path.with_name(name)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine from writing into ``folder``, which there must be.

    Raises HfgdError where one is at it. The lock is on the folder itself: nothing is left behind.
    """
    handle = _locked(folder)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _locked(folder: Path) -> int | None:
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise HfgdError(
            f"another process is writing into '{folder}'; wait for it, or choose another --out."
        ) from error
    except OSError:  # a file system without locks
        pass
    return handle


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """A folder, made if it is not there; after an error a new one is not left behind empty, nor with
    empty folders in it."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except Exception:
        if new:
            remove_empty(folder)
        raise


def remove_empty(folder: Path) -> None:
    """Remove the empty folders in ``folder``, and then itself if nothing is in it."""
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:  # the deepest first
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of room: the disk, a quota, or the largest size of a file.

    Libraries that write outside Python tell it in words only.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(f"(os error {code})" in str(error) for code in codes) or (
        type(error).__module__ == "sqlite3" and "disk is full" in str(error)
    )


def as_filed(name: str) -> str:
    """A file's name as this system tells files apart: Windows and macOS take no notice of case."""
    return name.casefold() if sys.platform in ("win32", "darwin") else name


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))
