"""``hfgd data import``: what an annotation tool wrote, as an ordinary data folder.

The same input and options give the same bytes. Nothing that is there is written again; a file is
written whole or not at all, and data.yaml comes last, so that a folder without it is never taken for
done.
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from hfgd.data.classes import IGNORE, ClassSet, voc_colour
from hfgd.data.formats import Annotations, Tree, find_format
from hfgd.data.formats.base import IGNORED, UNLABELLED, Annotated, counted
from hfgd.data.images import Pixels
from hfgd.data.importing.write_import import (
    ImportedPair,
    Plan,
    Rules,
    jobs_of,
    make_folders,
    refuse_foreign,
    write_pair,
    writing_into,
)
from hfgd.data.write_folder import write_data_yaml
from hfgd.errors import HfgdError, unknown

Progress = Callable[[int, int], None]


@dataclass
class ImportReport:
    """What was found and what became of it. ``pixels`` counts the K classes, then ignored pixels."""

    format: str
    reason: str
    classes: ClassSet
    splits: dict[str, int]
    split_rule: str
    unlabelled: str  # the class they became, or 'ignore'
    rule: str  # for overlaps
    pixels: np.ndarray
    images_with_class: np.ndarray
    shapes: Counter[int]  # by class; empty for formats of whole label maps
    unlabelled_pixels: int = 0
    overlaps: Counter[tuple[str, str]] = field(default_factory=Counter)
    contested: int = 0
    contested_images: int = 0
    notes: list[str] = field(default_factory=list)
    written: int = 0
    kept: int = 0


def import_data(
    path: Path, out: Path, rules: Rules | None = None, progress: Progress | None = None
) -> ImportReport:
    """Make the data folder ``out`` of what lies at ``path``; it may be half done.

    Raises HfgdError for what cannot be read or is not sure, naming file and key.
    """
    rules = rules or Rules()
    tree = Tree(path, skip=out, rle_order=rules.rle_order)
    format, reason = find_format(rules.format, tree)
    found = format.read(tree)
    if not found.items:
        raise HfgdError(f"'{path}' has no annotated image.")
    if all(item.label is None and not item.shapes for item in found.items):
        raise HfgdError(
            f"'{path}' has {counted(len(found.items), 'image')} and no annotated shape or mask, so "
            "there is nothing to learn from; annotate some, and export again."
        )
    classes, table, unlabelled = _classes(found, rules.unlabelled)
    found.items = _annotated(found, unlabelled)
    splits, split_rule = _split(found.items, rules.train, rules.seed)
    jobs = jobs_of(found.items, splits, out)
    report = ImportReport(
        format.name,
        reason,
        classes,
        {split: splits.count(split) for split in ("train", "val", "test") if split in splits},
        split_rule,
        unlabelled,
        rules.on_overlap,
        np.zeros(len(classes) + 1, dtype=np.int64),
        np.zeros(len(classes), dtype=np.int64),
        Counter(int(table[shape.class_index]) for item in found.items for shape in item.shapes),
        notes=list(found.notes),
    )
    for split in ("train", "val"):
        if split not in report.splits:
            report.notes.append(f"there is no split '{split}'; training needs train and val")
    with writing_into(out):
        plan = Plan(out, classes, table, rules, (out / "data.yaml").is_file())
        refuse_foreign(jobs, plan)
        _run(jobs, plan, report, found.classes, progress)
        if not plan.done:
            write_data_yaml(classes, out)
    return report


# ---- classes and splits ---------------------------------------------------------------------


def _classes(found: Annotations, asked: str | None) -> tuple[ClassSet, Pixels, str]:
    """The classes of the data folder, the table from a reader's values, what unlabelled became."""
    target = asked or found.unlabelled
    kept = [name for name in found.classes if name not in IGNORED]
    if len(kept) < len(found.classes):
        found.notes.append("the class 'ignore' counts nowhere: its pixels are ignored")
    names = list(kept)
    if target not in ("ignore", *kept):
        if target != "background":
            raise unknown("class", target, ["ignore", "background", *kept])
        names.insert(0, target)
    if not names:
        raise HfgdError("the annotations have no class but 'ignore'.")
    index = {name: number for number, name in enumerate(names)}
    table = np.full(256, IGNORE, dtype=np.uint8)
    for raw, name in enumerate(found.classes):
        table[raw] = index.get(name, IGNORE)
    table[UNLABELLED] = index.get(target, IGNORE)
    palette = [found.colours.get(name) or voc_colour(i + 1) for i, name in enumerate(names)]
    if len(names) == 1 and target == "ignore":
        found.notes.append(
            "there is one class, and everything else is ignored, so nothing can be learnt from it: "
            "--unlabelled background makes everything else a class"
        )
    return ClassSet.of(names, palette), table, target


def _annotated(found: Annotations, unlabelled: str) -> list[Annotated]:
    """The items to import: an image that nobody annotated is all of a class, or it is left out."""
    bare = sum(item.unannotated for item in found.items)
    if not bare:
        return found.items
    images = counted(bare, "image")
    if unlabelled == "ignore":
        found.notes.append(
            f"{images} without any annotation left out (--unlabelled background keeps them)"
        )
        return [item for item in found.items if not item.unannotated]
    found.notes.append(
        f"{images} without any annotation: all '{unlabelled}' (--unlabelled ignore leaves them out)"
    )
    return found.items


def _split(items: list[Annotated], train: float, seed: int) -> tuple[list[str], str]:
    """The split of each item: the source's, or a share drawn by the seed from the names.

    The draw depends on seed and name alone, so that an image more moves few of the others.
    """
    own = {item.split for item in items}
    if None not in own and own != {"train"}:
        return [str(item.split) for item in items], "the source's own"
    if own - {None, "train"}:
        free = [item.place for item in items if item.split is None]
        raise HfgdError(
            f"some images belong to a split and {len(free)} do not, {free[0]} first; list them, or "
            "move them into a folder train or val."
        )
    order = sorted(
        range(len(items)),
        key=lambda i: hashlib.sha256(f"{seed}/{items[i].name}".encode()).digest(),
    )
    count = math.floor(train * len(items) + 0.5)
    if train < 1 and len(items) > 1:
        count = min(max(count, 1), len(items) - 1)
    chosen = set(order[:count])
    rule = f"{train:g} of {len(items)} by seed {seed}"
    if own == {"train"}:
        rule += "; the source has 'train' alone"
    return ["train" if i in chosen else "val" for i in range(len(items))], rule


def _run(
    jobs: list[ImportedPair],
    plan: Plan,
    report: ImportReport,
    names: list[str],
    progress: Progress | None,
) -> None:
    turned = Counter[str]()
    empty = 0
    make_folders(plan.out, (path for job in jobs for path in (job.image, job.label)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, outcome in enumerate(pool.map(partial(write_pair, plan), jobs), 1):
            counts = outcome.counts
            report.pixels += np.append(counts[: len(plan.classes)], counts[IGNORE])
            report.images_with_class += counts[: len(plan.classes)] > 0
            report.unlabelled_pixels += outcome.unlabelled
            report.contested += outcome.contested
            report.contested_images += outcome.contested > 0
            for (above, below), number in outcome.overlaps.items():
                report.overlaps[_named(names, above), _named(names, below)] += number
            report.written += outcome.written
            report.kept += 2 - outcome.written
            turned[outcome.turned] += 1
            empty += outcome.empty
            if progress is not None:
                progress(done, len(jobs))
    if empty:
        report.notes.append(f"{counted(empty, 'shape')} without a single pixel")
    if turned["stored"]:
        report.notes.append(
            f"{counted(turned['stored'], 'image')} turned by EXIF with annotations of the image as "
            "stored: the labels were turned too"
        )
    if turned["unsure"]:
        report.notes.append(
            f"{counted(turned['unsure'], 'image')} turned by EXIF in a way that sizes do not show: "
            "the annotations were taken for those of the upright image; look at one"
        )


def _named(names: list[str], index: int) -> str:
    return names[index] if index < len(names) else "ignore"
