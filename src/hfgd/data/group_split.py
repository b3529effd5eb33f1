"""``hfgd data split``: whole groups (videos, scenes, patients) to train or to val, with like classes.

Neighbouring images in both splits make scores that say little. So groups stay whole, and of all ways
to deal them out one is searched whose val split has the asked share of the images and of the pixels
of every class. The same folder, groups and seed give the same split.
"""

import csv
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from hfgd.data.archive import Source
from hfgd.data.classes import IGNORE, ClassSet
from hfgd.data.folder import FolderData, FolderDataset
from hfgd.data.group_search import choose
from hfgd.data.import_files import (
    is_there,
    make_folders,
    put_file,
    refuse_others,
    writing_into,
)
from hfgd.errors import HfgdError
from hfgd.files import inside, write_text
from hfgd.parse import parse_yaml

POOL = ("train", "val")  # what is dealt out anew; other splits stay as they are


class Member(NamedTuple):
    """An image of the pool: where it lies and the group that it belongs to."""

    name: str
    image: Source
    label: Source
    group: str


@dataclass
class SplitOutcome:
    """What became of the groups. ``pixels``: by split, of the K classes; others: splits kept."""

    classes: ClassSet
    groups: dict[str, list[str]]
    images: dict[str, int]
    pixels: dict[str, np.ndarray]
    others: list[str]
    written: int


def split_folder(
    folder: Path,
    by: str,
    out: Path,
    val: float = 0.2,
    seed: int = 0,
    link: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SplitOutcome:
    """Write the data folder ``out`` with the images of ``folder`` dealt out by groups.

    ``by``: a regular expression on the names, whose group is the key, or a csv of name and group.
    Raises HfgdError for images without a group, and where ``out`` holds anything else.
    """
    data = FolderData(folder)
    if out.resolve() == data.root.resolve():
        raise HfgdError(f"--out is the folder itself, '{out}'; choose another: nothing is changed.")
    members = _members(data, by)
    names = sorted({member.group for member in members})
    if len(names) < 2:
        every = "the only image" if len(members) == 1 else f"all {len(members)} images"
        raise HfgdError(
            f"'--by {by}' puts {every} into one group, '{names[0]}', which cannot be split; "
            "use a key that differs."
        )
    counts = _count(data, members, progress)
    index = {name: number for number, name in enumerate(names)}
    pixels = np.zeros((len(names), len(data.classes)), dtype=np.int64)
    images = np.zeros(len(names), dtype=np.int64)
    for member, row in zip(members, counts, strict=True):
        pixels[index[member.group]] += row
        images[index[member.group]] += 1
    chosen = choose(pixels, images, val, seed)
    sides = {"train": ~chosen, "val": chosen}
    of_group = {name: "val" if chosen[i] else "train" for name, i in index.items()}
    others = [split for split in data.splits() if split not in POOL]
    with writing_into(out):
        written = _write(data, members, of_group, others, out, link)
    return SplitOutcome(
        data.classes,
        {s: [n for n, i in index.items() if side[i]] for s, side in sides.items()},
        {split: int(images[side].sum()) for split, side in sides.items()},
        {split: pixels[side].sum(axis=0) for split, side in sides.items()},
        others,
        written,
    )


# ---- groups ---------------------------------------------------------------------------------


def _members(data: FolderData, by: str) -> list[Member]:
    found: dict[str, tuple[Source, Source]] = {}
    for split in (s for s in data.splits() if s in POOL):
        for pair in FolderDataset(data, split).pairs:
            if pair.name in found:
                raise HfgdError(
                    f"train and val both have an image '{pair.name}'; rename one of the two."
                )
            found[pair.name] = pair.image, pair.label
    if not found:
        raise HfgdError(
            f"'{data.root}' has no images in images/train or images/val; put all images into "
            "images/train and all labels into labels/train, and they are dealt out from there."
        )
    names = sorted(found)
    groups = find_groups(by, names)
    return [Member(name, *found[name], groups[name]) for name in names]


def find_groups(by: str, names: list[str]) -> dict[str, str]:
    """Group of each name, by a regular expression or a csv; see ``split_folder``."""
    return _by_table(Path(by), names) if by.endswith(".csv") else _by_regex(by, names)


def _by_regex(pattern: str, names: list[str]) -> dict[str, str]:
    """Group of each name: what the expression's groups caught, or its whole match without any."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise HfgdError(f"'--by {pattern}' is no regular expression ({error}).") from error
    groups = {}
    for name in names:
        match = compiled.search(name)
        if match:
            groups[name] = "/".join(part or "" for part in match.groups()) or match.group()
    _refuse_lonely(names, groups, f"'--by {pattern}' does not fit")
    return groups


def _by_table(path: Path, names: list[str]) -> dict[str, str]:
    """Group of each name by a csv 'name,group'; names may have a suffix, and a header is fine."""
    if not path.is_file():
        raise HfgdError(f"--by: there is no file '{path}'.")
    known = set(names)
    groups: dict[str, str] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row:
                continue
            if len(row) != 2 or not row[1].strip():
                raise HfgdError(f"'{path}': line {number} is not of the form 'name,group'.")
            name, group = row[0].strip(), row[1].strip()
            name = name if name in known else os.path.splitext(name)[0]
            if name not in known:
                continue  # a header, or an image that is not here
            if groups.setdefault(name, group) != group:
                raise HfgdError(
                    f"'{path}': line {number} gives '{name}' another group than before."
                )
    _refuse_lonely(names, groups, f"'{path}' does not list")
    return groups


def _refuse_lonely(names: list[str], groups: dict[str, str], what: str) -> None:
    lonely = [name for name in names if not groups.get(name)]
    if lonely:
        raise HfgdError(
            f"{what} {len(lonely)} of {len(names)} images, '{lonely[0]}' first; every image needs "
            "a group."
        )


def _count(
    data: FolderData, members: list[Member], progress: Callable[[int, int], None] | None
) -> list[np.ndarray]:
    """Pixels of each class, by image."""

    def count(member: Member) -> np.ndarray:
        label = data.label_map.load(member.label)
        return np.bincount(label.ravel(), minlength=IGNORE + 1)[: len(data.classes)]

    counts = []
    with ThreadPoolExecutor() as pool:
        for row in pool.map(count, members):
            counts.append(row)
            if progress is not None:
                progress(len(counts), len(members))
    return counts


# ---- files ----------------------------------------------------------------------------------


def _write(
    data: FolderData,
    members: list[Member],
    of_group: dict[str, str],
    others: list[str],
    out: Path,
    link: bool,
) -> int:
    """Copy or link everything; files that are there and right stay. data.yaml comes last."""
    jobs: list[tuple[Source, Path]] = []
    for member in members:
        jobs += _targets(out, of_group[member.group], member.name, member.image, member.label)
    for split in others:
        images, labels = data.files(split)
        for name in sorted(images.keys() & labels.keys()):
            jobs += _targets(out, split, name, images[name], labels[name])
    if out.resolve() == data.root.resolve():
        raise HfgdError(
            f"--out is the folder itself, '{out}'; nothing is overwritten: choose another."
        )
    refuse_others(out, {target for _, target in jobs})
    text = _yaml_without_path(data.yaml_path)
    target = out / "data.yaml"
    done = target.exists()
    if done and target.read_text(encoding="utf-8") != text:
        raise HfgdError(f"'{out}' already holds another data set; choose another --out.")
    todo = [(source, target) for source, target in jobs if not is_there(source, target, link)]
    if done and any(target.exists() for _, target in todo):
        changed = next(target for _, target in todo if target.exists())
        raise HfgdError(f"'{changed}' is not what would be written; choose another --out.")
    make_folders(out, (target for _, target in todo))
    for source, path in todo:
        put_file(source, path, link)
    if not done:
        write_text(target, text)
    return len(todo)


def _targets(
    out: Path, split: str, name: str, image: Source, label: Source
) -> list[tuple[Source, Path]]:
    return [
        (source, inside(out, f"{name}{Path(source.name).suffix}", f"'{source}'", f"{kind}/{split}"))
        for kind, source in (("images", image), ("labels", label))
    ]


def _yaml_without_path(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    content = parse_yaml(text, f"'{path}'")
    if "path" not in content:
        return text
    del content["path"]
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
