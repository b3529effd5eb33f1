"""Which groups to set aside, so that their shares of images and of every class are the asked ones."""

import csv
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

from hfgd.data.archive import Source, composed
from hfgd.data.classes import IGNORE, ClassSet
from hfgd.data.folder import FolderData, FolderDataset
from hfgd.data.importing.write_import import (
    is_there,
    make_folders,
    put_file,
    refuse_others,
    writing_into,
)
from hfgd.errors import HfgdError
from hfgd.files import inside, write_text
from hfgd.parse import parse_yaml

STARTS = (
    16  # random beginnings of the search; fewer where there are so many groups that all are good
)
MANY = 500
FEW = 12  # groups, of which all ways are tried
LEAST = 1e-12  # what a step must gain, against going in circles
Table = npt.NDArray[np.float64]


def choose(pixels: np.ndarray, images: np.ndarray, val: float, seed: int) -> np.ndarray:
    """Which of G groups are val, bool (G,): the best of all ways, or of some searches.

    ``pixels``: (G, K) by class; ``images``: (G,). Neither side is empty.
    """
    shares = share_table(pixels, images)
    if len(images) <= FEW:
        return _best_of_all(shares, val)
    rng = np.random.default_rng(seed)
    best, lowest = np.zeros(len(images), dtype=bool), np.inf
    for _ in range(STARTS if len(images) <= MANY else 2):
        found = _improve(shares, val, _begin(shares, val, rng))
        price = cost(shares, found, val)
        if price < lowest - LEAST:
            best, lowest = found, price
    return best


def share_table(pixels: np.ndarray, images: np.ndarray) -> Table:
    """Each group's share of the images and of the pixels of each class that occurs, (G, 1 + K').

    Scaled so that the number of images weighs as much as all classes together.
    """
    totals = pixels.sum(axis=0)
    classes = pixels[:, totals > 0] / totals[totals > 0]
    columns = [images[:, None] / images.sum(), classes / max(1, classes.shape[1]) ** 0.5]
    return np.concatenate(columns, axis=1)


def cost(shares: Table, chosen: np.ndarray, val: float) -> float:
    """Squared distance of val's shares from the asked one."""
    return float(((shares[chosen].sum(axis=0) - val * shares.sum(axis=0)) ** 2).sum())


def _best_of_all(shares: Table, val: float) -> np.ndarray:
    count = len(shares)
    ways = np.arange(1, 2**count - 1)[:, None] >> np.arange(count) & 1  # neither none nor all
    misses = ways @ shares - val * shares.sum(axis=0)
    best: np.ndarray = ways[np.argmin((misses**2).sum(axis=1))] == 1
    return best


def _begin(shares: Table, val: float, rng: np.random.Generator) -> np.ndarray:
    """Groups in random order until the share of images is reached; at least one on each side."""
    order = rng.permutation(len(shares))
    reached = np.cumsum(shares[order, 0])
    count = int(np.clip((reached <= val).sum(), 1, len(order) - 1))
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[:count]] = True
    return chosen


def _improve(shares: Table, val: float, chosen: np.ndarray) -> np.ndarray:
    """Move one group, or else exchange two, as long as that brings the shares nearer."""
    target = val * shares.sum(axis=0)
    squares = (shares**2).sum(axis=1)
    while True:
        miss = shares[chosen].sum(axis=0) - target
        sign = np.where(chosen, -1.0, 1.0)
        moves = squares + 2 * sign * (shares @ miss)  # what moving each group adds to the cost
        if chosen.sum() == 1:
            moves[chosen] = np.inf
        if (~chosen).sum() == 1:
            moves[~chosen] = np.inf
        move = int(np.argmin(moves))
        chosen = chosen.copy()
        if moves[move] < -LEAST:
            chosen[move] = not chosen[move]
            continue
        ours, theirs = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        swaps = _exchanges(shares, squares, miss, ours, theirs)
        swap = int(np.argmin(swaps))
        if swaps.flat[swap] > -LEAST:
            return chosen
        out, into = divmod(swap, len(theirs))
        chosen[ours[out]], chosen[theirs[into]] = False, True


def _exchanges(
    shares: Table, squares: Table, miss: Table, ours: np.ndarray, theirs: np.ndarray
) -> Table:
    """What exchanging each pair adds to the cost, (ours, theirs)."""
    along = shares @ miss
    joint = shares[ours] @ shares[theirs].T
    gain: Table = squares[ours, None] + squares[theirs] - 2 * joint
    gain += 2 * (along[theirs] - along[ours, None])
    return gain


# ---- splitting a folder --------------------------------------------------------------------------


POOL = ("train", "val")  # what is dealt out anew; other splits stay as they are


class GroupMember(NamedTuple):
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


def _members(data: FolderData, by: str) -> list[GroupMember]:
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
    return [GroupMember(name, *found[name], groups[name]) for name in names]


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
            name, group = composed(row[0].strip()), row[1].strip()
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
    data: FolderData, members: list[GroupMember], progress: Callable[[int, int], None] | None
) -> list[np.ndarray]:
    """Pixels of each class, by image."""

    def count(member: GroupMember) -> np.ndarray:
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
    members: list[GroupMember],
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
