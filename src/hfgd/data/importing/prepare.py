"""``hfgd data prepare``: downloads whose labels are no images, made into ordinary data folders.

Idempotent and resumable: a label is written whole or not at all, what is there is not written
again, and data.yaml comes last, so that a folder without it is never taken for done.
"""

import io
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hfgd.data.archive import Source, list_files, opened, read_bytes
from hfgd.data.classes import IGNORE
from hfgd.data.formats.regions import decode_mask
from hfgd.data.images import Pixels
from hfgd.data.importing.write_import import writing_into
from hfgd.data.known import KNOWN
from hfgd.data.known.coco_stuff import RAW_IDS
from hfgd.data.known.pascal_context import CLASSES_459, SYNONYMS
from hfgd.data.label_files import Ids, read_label
from hfgd.data.prediction import palette_image
from hfgd.data.write_folder import write_data_yaml
from hfgd.errors import HfgdError, unknown
from hfgd.files import inside, write_whole
from hfgd.parallel.launch import begin_worker
from hfgd.parse import parse_json


@dataclass(frozen=True)
class PreparedLabel:
    """One image and how its label is made: ``decode(*arguments)`` gives raw ids (H, W)."""

    split: str
    name: str
    image: Source
    decode: Callable[..., Ids]
    arguments: tuple[Any, ...]
    table: dict[int, int]  # raw id → class index; anything else is ignored


def prepare(
    name: str,
    source: Path,
    out: Path,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Make a data folder of a known data set; returns the number of pairs of each split.

    Raises HfgdError where ``source`` lacks something, saying what was looked for.
    """
    routes = {"pascal_context": _pascal_context, "coco_stuff10k": _coco_stuff10k}
    if name not in routes:
        ready = (
            f"; '{name}' is read as downloaded: use {name}:PATH as data" if name in KNOWN else ""
        )
        raise HfgdError(f"{unknown('data set to prepare', name, routes)}{ready}")
    jobs = routes[name](source)
    with writing_into(out):
        _write(name, jobs, out, workers, progress)
    return {split: sum(job.split == split for job in jobs) for split in ("train", "val")}


def _write(
    name: str,
    jobs: list[PreparedLabel],
    out: Path,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    for split in {job.split for job in jobs}:
        for kind in ("images", "labels"):
            (out / kind / split).mkdir(parents=True, exist_ok=True)
    todo = [job for job in jobs if not all(path.is_file() for path in _paths(job, out))]
    done = len(jobs) - len(todo)
    if progress is not None:
        progress(done, len(jobs))
    cores = min(os.cpu_count() or 1, 61)  # Windows waits for no more
    try:
        with ProcessPoolExecutor(workers or cores, initializer=begin_worker) as pool:
            chunk = max(1, min(16, len(todo) // 8))
            for _ in pool.map(_run, todo, [out] * len(todo), [name] * len(todo), chunksize=chunk):
                done += 1
                if progress is not None:
                    progress(done, len(jobs))
    except BrokenProcessPool as error:
        raise HfgdError(
            "a process that makes labels died, often out of memory: the same command with a smaller "
            "--workers goes on."
        ) from error
    write_data_yaml(KNOWN[name].classes, out)


def _paths(job: PreparedLabel, out: Path) -> tuple[Path, Path]:
    return (
        inside(out, f"{job.name}.jpg", f"'{job.image}'", f"images/{job.split}"),
        inside(out, f"{job.name}.png", f"'{job.image}'", f"labels/{job.split}"),
    )


def _run(job: PreparedLabel, out: Path, name: str) -> None:
    """Write one pair, the label last."""
    image, label = _paths(job, out)
    raw = job.decode(*job.arguments)
    if raw.size and not 0 <= int(raw.min()) <= int(raw.max()) < 1 << 16:
        raise HfgdError(f"the labels of image '{job.name}' hold values outside of 0 to 65535.")
    lookup = np.full(max(int(raw.max(initial=0)), *job.table) + 1, IGNORE, dtype=np.uint8)
    for value, index in job.table.items():
        lookup[value] = index
    mapped: Pixels = lookup[raw]
    if not image.is_file():
        write_whole(image, lambda part: _copy(job.image, part))
    picture = palette_image(mapped, KNOWN[name].classes)
    write_whole(label, lambda part: picture.save(part, format="PNG"))


def _copy(source: Source, target: Path) -> None:
    handle = opened(source)
    if isinstance(handle, Path):
        shutil.copyfile(handle, target)
    else:
        target.write_bytes(handle.getvalue())


# ---- Pascal Context: three releases ---------------------------------------------------------


def _pascal_context(source: Path) -> list[PreparedLabel]:
    files = list_files(source)
    images = _find(files, r"JPEGImages/(?P<key>[^/]+)\.jpg")
    if not images:
        raise HfgdError(f"'{source}' has no JPEGImages/*.jpg; unpack VOC 2010's trainval there.")
    by_459 = {original: index for index, original in enumerate(CLASSES_459)}
    mats = _find(files, r"trainval/(?P<key>[^/]+)\.mat")
    if mats:
        return _split_jobs(source, files, images, mats, read_mat, ("LabelMap",), by_459)
    pngs = _find(files, r"59_context_labels/(?P<key>[^/]+)\.png")
    if pngs:
        table = _table_by_name(source, files)
        return _split_jobs(source, files, images, pngs, _read_png, (), table)
    merged = [s for path, s in files.items() if path.endswith("trainval_merged.json")]
    if merged:
        return _json_jobs(merged[0], images, by_459)
    raise HfgdError(
        f"'{source}' has none of the releases of Pascal Context: trainval/*.mat (459 labels), "
        "59_context_labels/*.png with 59_labels.txt, or trainval_merged.json; unpack one there."
    )


def _table_by_name(source: Path, files: dict[str, Source]) -> dict[int, int]:
    """59_labels.txt: '12: bottle' → our index of that name; never by position."""
    found = [s for path, s in files.items() if path.endswith("59_labels.txt")]
    if not found:
        raise HfgdError(f"'{source}' has 59_context_labels but no 59_labels.txt to name its ids.")
    names = KNOWN["pascal_context"].classes.names
    table = {}
    for number, text in re.findall(r"(\d+)\s*:\s*([\w ]+)", read_bytes(found[0]).decode()):
        name = SYNONYMS.get(text.strip(), text.strip())
        if name not in names:
            raise HfgdError(f"'{found[0]}': {unknown('class', name, names)}")
        table[int(number)] = names.index(name)
    if len(table) != len(names):
        raise HfgdError(f"'{found[0]}' names {len(table)} classes instead of {len(names)}.")
    return table


def _json_jobs(
    source: Source, images: dict[str, Source], table: dict[int, int]
) -> list[PreparedLabel]:
    """The merged annotation file: run-length masks of 459 categories, and the split itself."""
    try:
        content = parse_json(read_bytes(source).decode(), f"'{source}'")
        regions: dict[Any, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        for region in content["annos_segmentation"]:
            item = (int(region["category_id"]), region["segmentation"])
            regions[region["image_id"]].append(item)
        records = [
            (
                i["image_id"],
                Path(i["file_name"]).stem,
                i["phase"],
                int(i["height"]),
                int(i["width"]),
            )
            for i in content["images"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise HfgdError(f"'{source}' is not Pascal Context's merged annotation file.") from error
    jobs = []
    for number, name, phase, height, width in records:
        if phase in ("train", "val") and name in images:
            arguments = (height, width, regions[number], name)
            jobs.append(PreparedLabel(phase, name, images[name], decode_regions, arguments, table))
    return jobs


def decode_regions(
    height: int, width: int, regions: Iterable[tuple[int, dict[str, Any]]], name: str
) -> Ids:
    """Category ids (H, W) of an image from its run-length regions, later ones on top; 0 elsewhere."""
    ids = np.zeros((height, width), dtype=np.int64)
    for category, mask in regions:
        size = tuple(mask["size"])
        if size != ids.shape:
            raise HfgdError(f"a mask of image '{name}' is {size}, the image {ids.shape}.")
        ids[decode_mask(mask)] = category
    return ids


# ---- COCO-Stuff 10k -------------------------------------------------------------------------


def _coco_stuff10k(source: Path) -> list[PreparedLabel]:
    files = list_files(source)
    images = _find(files, r"images/(?P<key>[^/]+)\.jpg")
    mats = _find(files, r"annotations/(?P<key>[^/]+)\.mat")
    if not images or not mats:
        raise HfgdError(
            f"'{source}' has no images/*.jpg with annotations/*.mat; give the folder or zip of "
            "cocostuff-10k-v1.1."
        )
    table = {raw + 1: index for index, raw in enumerate(RAW_IDS)}  # 10k counts from 1
    lists = {"train": r"imageLists/train\.txt", "val": r"imageLists/test\.txt"}
    return _split_jobs(source, files, images, mats, read_mat, ("S",), table, lists)


# ---- common ---------------------------------------------------------------------------------

# VOC's own ImageSets hold lists of other tasks under the same names
LISTS = {split: rf"(?:^|SegmentationContext/){split}\.txt" for split in ("train", "val")}


def _split_jobs(
    source: Path,
    files: dict[str, Source],
    images: dict[str, Source],
    labels: dict[str, Source],
    decode: Callable[..., Ids],
    arguments: tuple[Any, ...],
    table: dict[int, int],
    lists: dict[str, str] = LISTS,
) -> list[PreparedLabel]:
    """Jobs of both splits by their list files; every listed name must be there."""
    jobs = []
    for split, pattern in lists.items():
        found = sorted(path for path in files if re.search(rf"{pattern}$", path))
        if not found:
            raise HfgdError(f"'{source}' has no {split} list (train.txt, val.txt); put one there.")
        for line in read_bytes(files[found[0]]).decode().splitlines():
            name = Path(line.split()[0]).stem if line.strip() else ""
            if not name:
                continue
            if name not in images or name not in labels:
                missing = "image" if name not in images else "label"
                raise HfgdError(
                    f"'{found[0]}' lists '{name}', and '{source}' has no {missing} of it."
                )
            jobs.append(
                PreparedLabel(split, name, images[name], decode, (labels[name], *arguments), table)
            )
    return jobs


def read_mat(source: Source, key: str) -> Ids:
    """A label matrix from a MATLAB file; raises HfgdError for a damaged or foreign one."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return np.asarray(loadmat(io.BytesIO(read_bytes(source)))[key], dtype=np.int64)
    except (MatReadError, KeyError, ValueError, TypeError, OSError, NotImplementedError) as error:
        raise HfgdError(f"'{source}' is no MATLAB file with a matrix '{key}' ({error}).") from error


def _read_png(source: Source) -> Ids:
    return read_label(source, colours=False)


def _find(files: dict[str, Source], pattern: str) -> dict[str, Source]:
    compiled = re.compile(rf"(?:^|/){pattern}$")
    matches = ((compiled.search(path), source) for path, source in files.items())
    return {m["key"]: source for m, source in matches if m}
