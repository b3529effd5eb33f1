"""Somebody's own data: ``images/{train,val}``, ``labels/{train,val}`` and a small ``data.yaml``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from hfgd.data.archive import Source, composed, told_apart
from hfgd.data.classes import ClassSet, LabelMap, Rgb, refuse_misread, voc_colour
from hfgd.data.dataset import Sample
from hfgd.data.images import images_below, read_image, without_suffix
from hfgd.errors import HfgdError, unknown
from hfgd.parse import read_yaml


class DataYaml(BaseModel):
    """``data.yaml``: class names in training order; the rest is optional.

    ``colours``: class name → [r, g, b], for pictures. ``label_map``: raw id or colour in the
    label files → class name or 'ignore'; without it files hold class indices and 255 = ignore.
    ``path``: the data folder, relative to this file; without it the file's own folder.
    """

    model_config = ConfigDict(extra="forbid")

    classes: list[str]
    colours: dict[str, Rgb] = {}
    label_map: dict[str | int, str] | None = None
    path: Path | None = None


class FilePair(NamedTuple):
    """An image file and its label file; ``name`` is their common path without suffix."""

    name: str
    image: Source
    label: Source


class PairedFiles(Protocol):
    """Where images and labels lie, by split and name: a data folder, or a known data set."""

    root: Path
    classes: ClassSet
    label_map: LabelMap

    def files(self, split: str) -> tuple[dict[str, Source], dict[str, Source]]:
        """Image files and label files of a split, by the name that pairs them."""

    def splits(self) -> list[str]:
        """The splits there are."""


class FolderData:
    """A data folder and what its ``data.yaml`` says of it.

    ``location``: the folder, or a data.yaml (whose ``path`` then names the folder).
    ``data_yaml``: a data.yaml that lies elsewhere. Raises HfgdError for what is not there.
    """

    def __init__(self, location: Path, data_yaml: Path | None = None) -> None:
        if data_yaml is None and location.is_file():
            data_yaml = location
        self.yaml_path = data_yaml or location / "data.yaml"
        spec = read_data_yaml(self.yaml_path)
        self.root = location
        if location.is_file():
            self.root = self.yaml_path.parent / (spec.path or "")
        if not self.root.is_dir():
            raise HfgdError(f"there is no data folder '{self.root}'.")
        self.classes = _classes(spec, str(self.yaml_path))
        self.label_map = (
            LabelMap.identity(self.classes)
            if spec.label_map is None
            else LabelMap.parse(spec.label_map, self.classes, str(self.yaml_path))
        )

    def files(self, split: str) -> tuple[dict[str, Source], dict[str, Source]]:
        """Image files and label files of a split, by their path without suffix."""
        return _by_stem(self.root / "images" / split), _by_stem(self.root / "labels" / split)

    def splits(self) -> list[str]:
        """The splits that have an image folder; hidden folders are none, as hidden images are."""
        folder = self.root / "images"
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(p.name for p in found if p.is_dir() and not p.name.startswith("."))


class FolderDataset:
    """One split of a data folder, paired by stem. Every image must have its label."""

    def __init__(self, data: PairedFiles, split: str) -> None:
        images, labels = data.files(split)
        if not images:
            raise HfgdError(
                f"no images of the split '{split}' in '{data.root}'; a data folder needs "
                f"images/{split} and labels/{split}, and this one has the splits {data.splits()}"
                f"{_dealt_out(data, split)}."
            )
        lonely = sorted(images.keys() - labels.keys())
        if lonely:
            raise HfgdError(
                f"{len(lonely)} of {len(images)} images of the split '{split}' in '{data.root}' have "
                f"no label of the same name, '{images[lonely[0]].name}' first; "
                f"'hfgd data check {data.root}' lists them."
            )
        self.classes = data.classes
        self.title = f"{data.root.name}/{split}"
        self.label_map = data.label_map
        self.pairs = [FilePair(name, images[name], labels[name]) for name in sorted(images)]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = torch.from_numpy(read_image(pair.image)).permute(2, 0, 1)
        label = torch.from_numpy(self.label_map.load(pair.label))
        if image.shape[1:] != label.shape:
            raise HfgdError(
                f"image '{pair.image}' is {image.shape[1]}×{image.shape[2]} (height × width) and "
                f"its label {label.shape[0]}×{label.shape[1]}; they must have the same size."
            )
        return Sample(image, label, pair.name)

    def label(self, index: int) -> torch.Tensor:
        """The label of a sample alone, (H, W) uint8."""
        return torch.from_numpy(self.label_map.load(self.pairs[index].label))


def _dealt_out(data: PairedFiles, missing: str) -> str:
    """How to come by a val, where all lies in train."""
    alone = missing == "val" and data.splits() == ["train"]
    return "; 'hfgd data split' makes val of a part of train" if alone else ""


def read_data_yaml(path: Path) -> DataYaml:
    """A checked data.yaml; raises HfgdError that names the file and the key."""
    if not path.is_file():
        raise HfgdError(
            f"there is no '{path}'; a data folder has a data.yaml with its class names, "
            "or give one with --data-yaml FILE."
        )
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise HfgdError(f"'{path}' must hold keys such as 'classes:', and holds something else.")
    for key, names in _names(content):
        refuse_misread(names, f"'{path}': {key}")
    try:
        return DataYaml.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise HfgdError(f"'{path}': {unknown('key', key, DataYaml.model_fields)}") from error
        raise HfgdError(f"'{path}': {key}: {first['msg']}.") from error


def _names(content: dict[Any, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Where a data.yaml has class names, and what YAML made of them."""
    for key in ("classes", "label_map", "colours"):
        values = content.get(key)
        if isinstance(values, list):
            yield key, values
        elif isinstance(values, dict):
            yield key, list(values.values() if key == "label_map" else values)


def _classes(spec: DataYaml, where: str) -> ClassSet:
    for name in spec.colours:
        if name not in spec.classes:
            raise HfgdError(f"{where}: colours: {unknown('class', name, spec.classes)}")
    palette = [spec.colours.get(name, voc_colour(i + 1)) for i, name in enumerate(spec.classes)]
    try:
        return ClassSet.of(spec.classes, palette)
    except HfgdError as error:
        raise HfgdError(f"{where}: {error}") from error


def _by_stem(folder: Path) -> dict[str, Source]:
    if not folder.is_dir():
        return {}
    files: dict[str, Source] = {}
    for path in images_below(folder):
        name = composed(without_suffix(path.relative_to(folder)).as_posix())
        if name in files:
            first, second = told_apart(files[name], path)
            raise HfgdError(
                f"{first} and {second} have the same stem, so labels cannot be paired with them; "
                "keep one of the two."
            )
        files[name] = path
    return files
