"""The images whose labels are reviewed: those of one split or of several, as one data set."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from hfgd.data.dataset import Sample, SegDataset, label_of
from hfgd.data.folder import FolderDataset
from hfgd.data.open import SCENES, open_dataset, open_files

SPLITS = ("train", "val")  # what is reviewed unless told otherwise


class Pool:
    """The splits of a data set one after the other. ``keys``: split and name of each image."""

    def __init__(self, parts: dict[str, SegDataset]) -> None:
        self.parts = parts
        first = next(iter(parts.values()))
        self.classes = first.classes
        self.title = " + ".join(part.title for part in parts.values())
        self.places = [(split, i) for split, part in parts.items() for i in range(len(part))]
        self.keys = [f"{split}/{self._name(split, i)}" for split, i in self.places]

    @classmethod
    def open(cls, data: str, splits: Sequence[str], data_yaml: Path | None) -> "Pool":
        """The given splits, or those of train and val that there are."""
        chosen = list(splits) or [split for split in SPLITS if split in _known(data, data_yaml)]
        return cls({s: open_dataset(data, s, data_yaml) for s in chosen or SPLITS[:1]})

    @property
    def merged(self) -> list[str]:
        """The classes that data.yaml's label_map makes of several values of the label files."""
        counts = Counter[int]()
        for part in self.parts.values():
            if isinstance(part, FolderDataset):
                counts |= Counter(part.label_map.table.values())
        return [name for i, name in enumerate(self.classes.names) if counts[i] > 1]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: int) -> Sample:
        split, index = self.places[position]
        return self.parts[split][index]

    def label(self, position: int) -> Tensor:
        """The label of an image alone."""
        split, index = self.places[position]
        return label_of(self.parts[split], index)

    def _name(self, split: str, index: int) -> str:
        part = self.parts[split]
        return part.pairs[index].name if isinstance(part, FolderDataset) else part[index].name

    def file(self, position: int) -> str:
        """Where the image lies within the data folder; where it has no file, a name for one."""
        split, index = self.places[position]
        part = self.parts[split]
        if not isinstance(part, FolderDataset):
            return f"{self.keys[position]}.png"
        image = part.pairs[index].image
        suffix = Path(image.name).suffix
        return f"images/{self.keys[position]}{suffix}"


class Chosen:
    """Some images of a data set, by their places."""

    def __init__(self, whole: SegDataset, indices: Sequence[int], title: str) -> None:
        self.whole, self.indices, self.title = whole, list(indices), title
        self.classes = whole.classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Sample:
        return self.whole[self.indices[position]]

    def label(self, position: int) -> Tensor:
        """The label of an image alone."""
        return label_of(self.whole, self.indices[position])


def _known(data: str, data_yaml: Path | None) -> list[str]:
    if data == SCENES:
        return list(SPLITS)
    return open_files(data, data_yaml).splits()
