"""``hfgd data check``: read everything before a training run does, and say what is wrong."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from hfgd.data.archive import Source
from hfgd.data.classes import IGNORE, ClassSet, LabelMap
from hfgd.data.duplicates import Print, describe, fingerprint, twins
from hfgd.data.findings import (
    REMEDY,
    absent,
    describe_copies,
    describe_flat,
    describe_turned,
    edge_fit,
    is_flat,
    one_class,
    two_kinds,
)
from hfgd.data.folder import PairedFiles
from hfgd.data.images import TURNS, Met, describe_extras, read_image
from hfgd.errors import HfgdError

SHOWN = 10  # problems of one kind that are printed in full


@dataclass
class SplitReport:
    """What reading one split showed. ``pixels`` counts the K classes, then ignored pixels."""

    split: str
    pairs: int
    pixels: np.ndarray
    images_with_class: np.ndarray
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)  # what would break training
    remarks: list[str] = field(default_factory=list)  # what would not


@dataclass
class CheckReport:
    """All splits of a data folder; ``ok`` is False where a training run would break."""

    root: Path
    classes: ClassSet
    splits: list[SplitReport]

    @property
    def ok(self) -> bool:
        return bool(self.splits) and not any(split.problems for split in self.splits)


def check_folder(
    data: PairedFiles, progress: Callable[[int, int], None] | None = None
) -> CheckReport:
    """Read every pair of every split. ``progress`` is told (done, total) after each file."""
    splits = data.splits()
    if not splits:
        raise HfgdError(
            f"'{data.root}' has no split with images; a data folder has images/train, "
            "images/val and labels of the same names; "
            "'hfgd data split' makes val of a part of train."
        )
    files = {split: data.files(split) for split in splits}
    total = sum(len(images) for images, _ in files.values())
    done = 0
    reports = []
    prints: dict[str, dict[str, Print]] = {split: {} for split in splits}
    for split in splits:
        images, labels = files[split]
        report = _check_split(split, images, labels, len(data.classes))
        names = sorted(images.keys() & labels.keys())

        def read(
            name: str, images: dict[str, Source] = images, labels: dict[str, Source] = labels
        ) -> _Read:
            return _read_pair(images[name], labels[name], data.label_map, len(data.classes))

        found: dict[str, _Read] = {}
        with ThreadPoolExecutor() as pool:
            for name, outcome in zip(names, pool.map(read, names), strict=True):
                found[name] = outcome
                if outcome.print is not None:
                    prints[split][name] = outcome.print
                report.problems += outcome.problems
                if outcome.pixels is not None:
                    report.pixels += outcome.pixels
                    report.images_with_class += outcome.pixels[:-1] > 0
                if outcome.size is not None:
                    report.sizes[outcome.size] += 1
                done += 1
                if progress is not None:
                    progress(done, total)
        _judge(report, data, found, prints[split])
        reports.append(report)
    for (one, _), (other, report) in combinations(
        sorted(zip(splits, reports, strict=True), key=_training_first), 2
    ):
        report.remarks += describe(one, other, twins(prints[one], prints[other]))
    return CheckReport(data.root, data.classes, reports)


@dataclass
class _Read:
    """One pair as it was read."""

    problems: list[str]
    pixels: np.ndarray | None = None
    size: tuple[int, int] | None = None
    print: Print | None = None
    flat: bool = False
    met: Met = field(default_factory=Met)
    label_extras: list[str] = field(default_factory=list)
    fit: tuple[float, float] | None = None  # as in edge_fit


def _check_split(
    split: str, images: dict[str, Source], labels: dict[str, Source], count: int
) -> SplitReport:
    """What pairing the files of a split shows. ``count``: number of classes."""
    report = SplitReport(
        split,
        pairs=len(images.keys() & labels.keys()),
        pixels=np.zeros(count + 1, dtype=np.int64),
        images_with_class=np.zeros(count, dtype=np.int64),
    )
    for name in sorted(images.keys() - labels.keys()):
        report.problems.append(f"image without label: {images[name]}")
    for name in sorted(labels.keys() - images.keys()):
        report.remarks.append(f"label without image: {labels[name]}")
    return report


def _read_pair(image_path: Source, label_path: Source, label_map: LabelMap, count: int) -> _Read:
    result = _Read([])
    pixels = None
    try:
        pixels = read_image(image_path, result.met)  # the whole file: headers can be fine
        result.size, result.print = pixels.shape[:2], fingerprint(pixels)
        result.flat = is_flat(pixels, result.print)
    except HfgdError as error:
        result.problems.append(str(error))
    try:
        label, strange = label_map.try_load(label_path, result.label_extras)
    except HfgdError as error:
        result.problems.append(str(error))
        return result
    if strange:
        result.problems.append(
            f"values outside the label map: {label_path} holds {label_map.describe(strange)}"
        )
    if result.size is not None and result.size != label.shape:
        (height, width), (label_height, label_width) = result.size, label.shape
        result.problems.append(
            f"sizes differ: {image_path} is {height}×{width} (height × width), "
            f"{label_path} is {label_height}×{label_width}"
            + _stored(result.met, height, width, label)
        )
    elif pixels is not None and result.met.orientation in TURNS:
        result.fit = edge_fit(pixels, label, result.met.orientation)
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
    result.pixels = np.append(counts[:count], counts[IGNORE])
    return result


def _stored(met: Met, height: int, width: int, label: np.ndarray) -> str:
    """Why sizes differ, where EXIF turns the image and the label is of the image as stored."""
    if met.orientation in (5, 6, 7, 8) and label.shape == (width, height):
        return f"; EXIF turns the image, and the label is of the image as stored: {REMEDY}"
    return ""


def _judge(
    report: SplitReport, data: PairedFiles, found: dict[str, _Read], prints: dict[str, Print]
) -> None:
    if report.pairs == 0:
        report.problems.append(f"split '{report.split}' has no pair of image and label")
        return
    classes, label_map = data.classes, data.label_map
    report.remarks += absent(report.pixels, classes, report.split)
    if report.pixels[:-1].sum() == 0:
        report.problems.append(f"split '{report.split}' has no labelled pixel")
    wrong = one_class(report.pixels, classes, label_map)
    if wrong is not None:
        report.problems.append(f"split '{report.split}': {wrong}")
    counts = [outcome.pixels for outcome in found.values() if outcome.pixels is not None]
    report.remarks += two_kinds(counts, classes, label_map)
    extras = [extra for outcome in found.values() for extra in outcome.met.extras]
    report.remarks += describe_extras(extras, report.pairs, "images")
    extras = [extra for outcome in found.values() for extra in outcome.label_extras]
    report.remarks += describe_extras(extras, report.pairs, "labels")
    turned = {n: one.fit for n, one in found.items() if one.met.orientation in TURNS}
    problems, remarks = describe_turned(turned, report.pairs)
    report.problems += problems
    report.remarks += remarks
    report.remarks += describe_flat([n for n, one in found.items() if one.flat], report.pairs)
    report.remarks += describe_copies(prints)


def _training_first(split: tuple[str, SplitReport]) -> tuple[bool, str]:
    return split[0] != "train", split[0]
