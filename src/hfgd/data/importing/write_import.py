"""An import on the disk: which files it makes, what must not be there, and writing them whole."""

import filecmp
import io
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from hfgd.data.archive import Source, opened
from hfgd.data.classes import ClassSet
from hfgd.data.formats import AUTO
from hfgd.data.formats.base import UNLABELLED, Annotated
from hfgd.data.formats.paint import OnOverlap, make_label
from hfgd.data.formats.tree import RleOrder
from hfgd.data.images import Pixels
from hfgd.data.prediction import palette_image
from hfgd.data.write_folder import data_yaml_text
from hfgd.errors import HfgdError
from hfgd.files import alone, as_filed, inside, remove_empty, write_whole


@dataclass(frozen=True)
class Rules:
    """How to import. ``unlabelled``: 'ignore', 'background', a class, or None for the format's own.

    ``train``: share of the images for train where the source has no splits. ``rle_order``: how run
    lengths count pixels, decided by the file where None.
    """

    format: str = AUTO
    train: float = 0.8
    seed: int = 0
    unlabelled: str | None = None
    on_overlap: OnOverlap = "last"
    link: bool = False
    rle_order: RleOrder | None = None


@dataclass(frozen=True)
class ImportedPair:
    """An image and the two files that it becomes."""

    item: Annotated
    image: Path
    label: Path


@dataclass(frozen=True)
class Plan:
    """What one image needs to know of all of them. ``table``: a reader's value → label value."""

    out: Path
    classes: ClassSet
    table: Pixels
    rules: Rules
    done: bool  # the folder was complete before: nothing in it is overwritten


@dataclass(frozen=True)
class ImportOutcome:
    """What one image was: pixels by label value (256,), and as in ``Painted``."""

    counts: np.ndarray
    unlabelled: int
    overlaps: Counter[tuple[int, int]]
    contested: int
    empty: int
    turned: str
    written: int


def jobs_of(items: list[Annotated], splits: list[str], out: Path) -> list[ImportedPair]:
    """Where each image goes. Raises HfgdError for a name that a data folder would not find."""
    real = cache(os.path.realpath)  # the same few folders, for all images
    return [_job(item, split, out, real) for item, split in zip(items, splits, strict=True)]


def _job(item: Annotated, split: str, out: Path, real: Callable[[str | Path], str]) -> ImportedPair:
    parts = PurePosixPath(item.name).parts
    if not parts or any(part.startswith(".") for part in parts):
        raise HfgdError(f"{item.place}: an image cannot be called '{item.name}'; rename it.")
    suffix = PurePosixPath(item.image.name).suffix
    return ImportedPair(
        item,
        inside(out, f"{item.name}{suffix}", item.place, f"images/{split}", real),
        inside(out, f"{item.name}.png", item.place, f"labels/{split}", real),
    )


def refuse_foreign(jobs: list[ImportedPair], plan: Plan) -> None:
    """Two images of one name, a finished folder of something else, files of another import."""
    _refuse_file_as_folder(jobs)
    seen: dict[str, ImportedPair] = {}
    for job in jobs:
        other = seen.setdefault(as_filed(str(job.label)), job)
        if other is not job:
            raise HfgdError(
                f"'{other.item.image}' and '{job.item.image}' would both be called "
                f"'{job.item.name}'; rename one, or keep each in a folder of its own."
            )
        if plan.rules.link:
            _real(job.item.image)
    yaml = plan.out / "data.yaml"
    if plan.done and yaml.read_text(encoding="utf-8") != data_yaml_text(plan.classes):
        raise HfgdError(
            f"'{plan.out}' already holds a data set with other classes; choose another --out."
        )
    refuse_others(plan.out, {path for job in jobs for path in (job.image, job.label)})


def _refuse_file_as_folder(jobs: list[ImportedPair]) -> None:
    """'a.jpg' beside a folder 'a.png': the label of one would be the folder of the other's."""
    parents = {path.parent for job in jobs for path in (job.image, job.label)}
    folders = {as_filed(str(folder)) for path in parents for folder in (path, *path.parents)}
    for job in jobs:
        if folders & {as_filed(str(job.image)), as_filed(str(job.label))}:
            raise HfgdError(
                f"'{job.item.image}' would be a file where other images need a folder, "
                f"'{job.item.name}.png' or its own name; rename one."
            )


def refuse_others(out: Path, mine: set[Path]) -> None:
    """Raises HfgdError where a folder to write holds images or labels that are not ours."""
    for kind in ("images", "labels"):
        for path in sorted((out / kind).rglob("*")):
            if not path.is_dir() and path not in mine and not path.name.startswith("."):
                raise HfgdError(
                    f"'{path}' is not of this run (another source, split or seed?); choose another "
                    "--out, or remove it."
                )


@contextmanager
def writing_into(out: Path) -> Iterator[None]:
    """The folder ``out`` for this process alone, made where it is not there.

    Raises HfgdError where it cannot be made, or where another process writes into it.
    """
    new = not out.exists()
    make_folders(out, [out / "data.yaml"])
    try:
        with alone(out):
            yield
    except Exception:
        if new:
            remove_empty(out)
        raise


def make_folders(out: Path, files: Iterable[Path]) -> None:
    """The folders of all files to write. Raises HfgdError where ``out`` cannot be a folder."""
    try:
        for folder in {path.parent for path in files}:
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise HfgdError(
            f"--out '{out}' cannot be made a folder ({error.strerror}: '{error.filename}'); choose "
            "another place."
        ) from error


def write_pair(plan: Plan, job: ImportedPair) -> ImportOutcome:
    """Write image and label where they are not there yet, the label last."""
    painted = make_label(job.item, plan.rules.on_overlap)
    label = plan.table[painted.label]
    written = _put_image(plan, job)
    packed = io.BytesIO()
    palette_image(label, plan.classes).save(packed, format="PNG")
    data = packed.getvalue()
    if not (job.label.is_file() and job.label.read_bytes() == data):
        _refuse_change(plan, job.label)
        write_whole(job.label, lambda part: part.write_bytes(data))
        written += 1
    return ImportOutcome(
        np.bincount(label.ravel(), minlength=256),
        int((painted.label == UNLABELLED).sum()),
        painted.overlaps,
        painted.contested,
        painted.empty,
        painted.turned,
        written,
    )


def _put_image(plan: Plan, job: ImportedPair) -> int:
    if is_there(job.item.image, job.image, plan.rules.link):
        return 0
    _refuse_change(plan, job.image)
    put_file(job.item.image, job.image, plan.rules.link)
    return 1


def is_there(source: Source, target: Path, link: bool) -> bool:
    """Whether ``target`` is a copy of ``source``, byte by byte, or the link to it."""
    if link:
        return target.is_symlink() and os.readlink(target) == str(_real(source))
    return target.is_file() and not target.is_symlink() and _same(source, target)


def put_file(source: Source, target: Path, link: bool) -> None:
    """Copy or link a file, whole or not at all."""
    write_whole(target, lambda part: _link(source, part) if link else _copy(source, part))


def _refuse_change(plan: Plan, path: Path) -> None:
    if plan.done and (path.exists() or path.is_symlink()):
        raise HfgdError(
            f"'{path}' is not what this import would write: it, the source or the options have "
            "changed since; choose another --out, or remove what is to be made again."
        )


def _same(source: Source, target: Path) -> bool:
    if isinstance(source, Path):
        return filecmp.cmp(source, target, shallow=False)
    handle = opened(source)
    assert isinstance(handle, io.BytesIO)
    return handle.getvalue() == target.read_bytes()


def _copy(source: Source, target: Path) -> None:
    handle = opened(source)
    if isinstance(handle, Path):
        shutil.copyfile(handle, target)
    else:
        target.write_bytes(handle.getvalue())


def _link(source: Source, target: Path) -> None:
    target.unlink(missing_ok=True)  # what a kill left behind
    target.symlink_to(_real(source))


def _real(source: Source) -> Path:
    if not isinstance(source, Path):
        raise HfgdError(
            f"--link needs images that are files, and '{source}' is packed; unpack it, or leave "
            "--link out."
        )
    return source.resolve()
