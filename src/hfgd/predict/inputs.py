"""What ``hfgd predict`` is given, as images: folders, archives, lists of paths, addresses."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from hfgd.data.archive import Packed, paths_below
from hfgd.data.images import IMAGE_SUFFIXES, Met, Pixels, read_image
from hfgd.errors import HfgdError
from hfgd.files import as_filed
from hfgd.parse import refuse_special
from hfgd.predict.archives import ArchiveMember, image_members, is_archive, read_member
from hfgd.predict.shards import Shard
from hfgd.predict.storage import file_system, is_address, local, patiently, read_place

WHOLE = Shard()
LISTS = (".txt", ".lst")
VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".ts"}
TIFFS = {".tif", ".tiff"}
SHARDS = 100_000  # names that one pair of braces may stand for
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")  # WebDataset's way to name many shards


class InputImage(NamedTuple):
    """An image: a path or an address, or a file in an archive, and the relative path of its results."""

    source: str | ArchiveMember
    target: str

    @property
    def path(self) -> str:
        """The file that has to be opened for it: its age is the image's."""
        return self.source.archive if isinstance(self.source, ArchiveMember) else self.source

    def has(self, suffixes: set[str]) -> bool:
        """Whether it is a file of its own on this machine with one of these suffixes."""
        if isinstance(self.source, ArchiveMember) or is_address(self.source):
            return False
        return PurePosixPath(self.source).suffix.lower() in suffixes


class Failed(NamedTuple):
    """What could not be read or labelled, why, in one sentence, and where its label would be."""

    path: str
    reason: str
    label: str = ""


def read_item(item: InputImage, met: Met | None = None) -> Pixels:
    """Its pixels (H, W, 3) uint8 RGB; ``met`` as in ``read_image``.

    Raises HfgdError for what cannot be read.
    """
    source, name = item.source, str(item.source)
    data = read_member(source) if isinstance(source, ArchiveMember) else read_place(source)
    return read_image(Packed(name, PurePosixPath(name).name, partial(bytes, data)), met)


def find_images(
    inputs: Sequence[str | Path], failed: list[Failed] | None = None, shard: Shard = WHOLE
) -> list[InputImage]:
    """Every image of a share with the relative path (.png) its results go to.

    A folder's structure is kept; of several inputs each folder and archive keeps its own name on
    top. Where two images would land on one name, both keep their suffix in it. Where there are as
    many archives as shares, or more, whole archives are dealt, so that each is read once. An
    archive that is broken goes into ``failed``; without that list it is raised.
    """
    entries = [entry for given in inputs for entry in _braces(local(given))]
    archives = [entry for entry in entries if is_archive(entry)]
    _refuse_one_name(archives)
    whole = len(archives) >= shard.count > 1
    found: list[InputImage] = []
    for entry in entries:
        top = PurePosixPath(_stem(entry) if len(entries) > 1 else "")
        if is_archive(entry):
            mine = shard.owns(_name(entry))
            if mine or not whole:
                found += _in_archive(entry, top, failed, mine)
        else:
            found += _below(entry, top)
    placed = _placed(found)
    if shard.count == 1:
        return placed
    return [
        item
        for item in placed
        if (whole and isinstance(item.source, ArchiveMember)) or shard.owns(item.target)
    ]


def _braces(entry: str) -> Iterator[str]:
    match = BRACES.search(entry)
    if match is None or os.path.lexists(entry):  # a file or folder may be called so
        yield entry
        return
    first, last = match.groups()
    if max(len(first), len(last)) > 12 or int(last) - int(first) >= SHARDS:
        raise HfgdError(f"'{entry[:80]}' stands for more than {SHARDS:,} names; give fewer.")
    for number in range(int(first), int(last) + 1):
        middle = str(number).zfill(len(first))
        yield from _braces(entry[: match.start()] + middle + entry[match.end() :])


def _name(place: str) -> str:
    return os.path.basename(os.path.abspath(place)) if not is_address(place) else _last(place)


def _last(address: str) -> str:
    return address.partition("?")[0].rstrip("/").rpartition("/")[2]


def _stem(place: str) -> str:
    """A folder's own name, or an archive's without its suffix."""
    name = _name(place)
    return re.sub(r"\.(zip|tar|tgz|tar\.\w+)$", "", name) if is_archive(place) else name


def _refuse_one_name(archives: Sequence[str]) -> None:
    twice = [name for name, uses in Counter(map(_stem, archives)).items() if uses > 1]
    if twice:
        raise HfgdError(
            f"two of the archives are called '{twice[0]}', and their images would be mixed; "
            "rename one, or predict them into two folders."
        )


def _in_archive(
    archive: str, top: PurePosixPath, failed: list[Failed] | None, mine: bool
) -> Iterator[InputImage]:
    names, wrong = image_members(archive)
    wrong = wrong if wrong or names else f"there are no images in '{archive}'."
    if wrong is not None and failed is None:
        raise HfgdError(wrong)
    if wrong is not None and failed is not None and mine:
        failed.append(Failed(archive, wrong))
    for name in names:
        yield InputImage(ArchiveMember(archive, name), str(top / _inside(name)))


def _below(entry: str, top: PurePosixPath) -> Iterator[InputImage]:
    """The images of a folder, of a list, or the one that an entry is."""
    if not is_address(entry):
        refuse_special(entry)
    if is_address(entry):
        yield from _at_address(entry, top)
    elif os.path.isdir(entry):
        paths = [path for path in paths_below(Path(entry)) if _is_image(path)]
        if not paths:
            raise HfgdError(f"there are no images in '{entry}'.")
        start = len(os.path.join(entry, ""))
        yield from (InputImage(p, str(top / p[start:].replace(os.sep, "/"))) for p in paths)
    elif not os.path.exists(entry):
        raise HfgdError(f"there is no image or folder '{entry}'.")
    elif entry.lower().endswith(LISTS):
        yield from _in_list(entry)
    else:
        yield InputImage(entry, _name(entry))


def _in_list(file: str) -> Iterator[InputImage]:
    """One path or address a line; a relative one begins at the list's own folder."""
    here, before = os.path.dirname(file), 0
    with open(file, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            place = line.rstrip("\r\n")
            if not place.strip():
                continue
            if is_archive(place) or os.path.isdir(os.path.join(here, place)):
                raise HfgdError(
                    f"'{file}' lists '{place}', which is no image; give folders and archives as "
                    "inputs of their own."
                )
            if "\0" in place:
                raise HfgdError(f"'{file}' has a line with NUL, which no path holds.")
            before += 1
            inside = _inside(place.partition("://")[2] if is_address(place) else place)
            yield InputImage(place if is_address(place) else os.path.join(here, place), inside)
    if not before:
        raise HfgdError(f"'{file}' lists no images.")


def _at_address(address: str, top: PurePosixPath) -> Iterator[InputImage]:
    if PurePosixPath(_last(address)).suffix.lower() in IMAGE_SUFFIXES:
        yield InputImage(address, _last(address))
        return
    system, root = file_system(address)
    try:
        found = patiently(address, lambda: sorted(system.find(root)))
    except (FileNotFoundError, PermissionError) as error:
        raise HfgdError(f"'{address}' cannot be listed ({error}).") from error
    start = len(root.rstrip("/")) + 1
    paths = [path for path in found if _is_image(path)]
    if not paths:
        raise HfgdError(f"there are no images in '{address}'.")
    for path in paths:
        yield InputImage(system.unstrip_protocol(path), str(top / _inside(path[start:])))


def _is_image(path: str) -> bool:
    *folders, name = path.replace(os.sep, "/").split("/")
    if name.startswith(".") or "@eaDir" in folders:  # thumbnails of a storage box
        return False
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _inside(name: str) -> str:
    """A relative path that leads out of nothing, from whatever an archive or a list says."""
    parts = PurePosixPath(name.replace("\\", "/").replace(":", "_").replace("\0", "_")).parts
    return "/".join(part for part in parts if part not in ("..", "/"))


def _placed(found: Sequence[InputImage]) -> list[InputImage]:
    """The targets as '.png', with the image's own suffix in the name where two would have one, or
    where 'a.jpg' lies beside a folder 'a.png'."""
    bare = [_bare(item.target) for item in found]
    uses = Counter(map(as_filed, bare))
    folders = {as_filed(above) for name in bare for above in _folders(name)}
    # the frames of a film have a folder of its name
    folders |= {as_filed(n) for item, n in zip(found, bare, strict=True) if item.has(VIDEOS)}
    placed: list[InputImage] = []
    for (source, target), name in zip(found, bare, strict=True):
        taken = uses[as_filed(name)] > 1 or as_filed(f"{name}.png") in folders
        kept = target[len(name) :] if taken else ""  # '.jpg', or nothing
        placed.append(InputImage(source, f"{name}{kept.replace('.', '_')}.png"))
    files = Counter(as_filed(target) for _, target in placed)
    twice = [
        target for _, target in placed if files[as_filed(target)] > 1 or as_filed(target) in folders
    ]
    if twice:
        raise HfgdError(
            f"two of the images would both be written to '{twice[0]}'; "
            "rename one, or predict them into two folders."
        )
    return placed


def _folders(name: str) -> Iterator[str]:
    """The folders of a relative path: 'a/b' and 'a' of 'a/b/c'."""
    while slash := name.rfind("/") + 1:
        name = name[: slash - 1]
        yield name


def _bare(target: str) -> str:
    """Without the suffix of a picture or a film; 'frame_0.5' has none and stays as it is."""
    stem, dot, suffix = target.rpartition(".")
    suffix = f".{suffix.lower()}"
    known = suffix in Image.registered_extensions() or suffix in VIDEOS
    return stem if dot and known and not stem.endswith("/") and stem else target
