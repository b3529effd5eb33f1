"""Images inside zip and tar archives, read in place: on this machine, or at an address of fsspec."""

import tarfile
import threading
import zipfile
from collections import Counter
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

from hfgd.data.archive import BROKEN_ZIP, LARGEST, is_leftover, read_bounded
from hfgd.data.images import IMAGE_SUFFIXES
from hfgd.errors import HfgdError
from hfgd.parse import refuse_special
from hfgd.predict.storage import file_system, is_address, local, patiently

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
BROKEN = (*BROKEN_ZIP, tarfile.TarError)


class ArchiveMember(NamedTuple):
    """A file in an archive."""

    archive: str
    name: str

    def __str__(self) -> str:
        return f"{self.archive}:{self.name}"


def is_archive(place: str) -> bool:
    """Whether a path or an address names an archive: by its suffix."""
    return place.lower().endswith((".zip", *TARS))


def read_member(member: ArchiveMember) -> bytes:
    """Its bytes. Raises HfgdError where the archive is damaged."""
    archive = _opened(member.archive)
    try:
        return patiently(str(member), lambda: archive.read(member.name))
    except BROKEN as error:
        raise HfgdError(f"'{member}' cannot be read from its archive ({error}).") from error


def image_members(archive: str) -> tuple[list[str], str | None]:
    """The images in an archive, as they lie in it, and what is wrong with it, if anything is.

    Of a tar that ends too early what comes before its end is there. In a WebDataset shard the
    files of one sample share a name up to the first dot: of '7.jpg' and '7.seg.png' the first is
    the image.
    """
    try:
        names, wrong = _opened(archive).names()
    except HfgdError as error:
        return [], str(error)
    pictures = [name for name in names if _is_picture(name)]
    twice = {name for name, uses in Counter(pictures).items() if uses > 1}
    if twice:  # the last one is what every program reads
        pictures = list(dict.fromkeys(pictures))
    plain = {_sample(name) for name in pictures if _middle(name) == ""}
    kept = [n for n in pictures if not (_middle(n).isidentifier() and _sample(n) in plain)]
    return kept, wrong  # as they lie: a compressed archive is read from its begin on


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    kept = not path.name.startswith(".") and not any(map(is_leftover, path.parts))
    return kept and path.suffix.lower() in IMAGE_SUFFIXES


def _sample(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _middle(name: str) -> str:
    """'7.seg.png' → 'seg'; nothing for '7.png'."""
    return ".".join(name.rpartition("/")[2].split(".")[1:-1])


@lru_cache(maxsize=8)
def _opened(archive: str) -> "_Zip | _Tar":
    file = _file(archive)
    try:
        return _Zip(archive, file) if archive.lower().endswith(".zip") else _Tar(archive, file)
    except BROKEN as error:
        raise HfgdError(f"'{archive}' is no readable archive ({error}).") from error


def _file(place: str) -> BinaryIO:
    """The archive itself, which can be read from any place in it."""
    try:
        if is_address(place):
            system, path = file_system(place)
            # images lie one after another: blocks ahead are worth having
            return cast(BinaryIO, patiently(place, lambda: system.open(path, "rb")))
        refuse_special(local(place))
        return Path(local(place)).open("rb")
    except FileNotFoundError as error:
        raise HfgdError(f"there is no archive '{place}'.") from error
    except PermissionError as error:
        raise HfgdError(f"no permission to read '{place}'.") from error


class _Zip:
    def __init__(self, place: str, file: BinaryIO) -> None:
        self.place, self._lock = place, threading.Lock()
        self._zip = zipfile.ZipFile(file)

    def names(self) -> tuple[list[str], None]:
        return [name for name in self._zip.namelist() if not name.endswith("/")], None

    def read(self, name: str) -> bytes:
        with self._lock:  # one file handle
            return read_bounded(self._zip, name, f"{self.place}:{name}")


class _Tar:
    """A plain tar is read at any place; a compressed one from its begin on, once to list it and once
    to read it, since images are asked for in order."""

    def __init__(self, place: str, file: BinaryIO) -> None:
        self.place, self._file, self._lock = place, file, threading.Lock()
        self._plain = place.lower().endswith(".tar")
        self._stream: tarfile.TarFile | None = None
        self._spans: dict[str, tuple[int, int]] = {}  # first byte and length of each file
        self._wrong: str | None = None
        self._list()

    def names(self) -> tuple[list[str], str | None]:
        return list(self._spans), self._wrong

    def read(self, name: str) -> bytes:
        start, length = self._spans[name]
        if length > LARGEST:
            raise HfgdError(
                f"'{self.place}:{name}' is larger than {LARGEST >> 20} MiB; make it smaller."
            )
        with self._lock:
            if self._plain:
                self._file.seek(start)
                data = self._file.read(length)
            else:
                data = self._read_on(start, length)
        if len(data) < length:
            raise EOFError("the archive ends in the middle of it")
        return data

    def _read_on(self, start: int, length: int) -> bytes:
        """From the decompressed stream, which goes back to its begin by itself where it has to."""
        if self._stream is None:
            self._file.seek(0)
            self._stream = tarfile.open(fileobj=self._file, mode="r:*")  # noqa: SIM115
        stream: Any = self._stream.fileobj
        stream.seek(start)
        data: bytes = stream.read(length)
        return data

    def _list(self) -> None:
        self._file.seek(0)
        tar = tarfile.open(fileobj=self._file, mode="r:" if self._plain else "r:*")  # noqa: SIM115
        end = 0
        try:
            while (found := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # which tarfile would keep
                end = found.offset_data + -(-found.size // 512) * 512
                if found.isreg():
                    self._spans.pop(found.name, None)
                    self._spans[found.name] = (found.offset_data, found.size)
            stream: Any = tar.fileobj
            stream.seek(end)
            if stream.read(512).strip(b"\0") or not self._ends(stream, end):
                self._wrong = self._say("it has no end mark")
        except BROKEN as error:
            if not self._spans:
                raise
            self._wrong = self._say(str(error))

    @staticmethod
    def _ends(stream: Any, end: int) -> bool:
        stream.seek(end)
        return len(stream.read(512)) == 512

    def _say(self, why: str) -> str:
        return f"'{self.place}' is truncated or damaged ({why}); what comes before that is used."
