"""What every known data set states, and how its files are found."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hfgd.data.archive import Source, list_files, opened
from hfgd.data.classes import IGNORE, ClassSet, LabelMap
from hfgd.errors import HfgdError

TRAIN_IDS = r"_labelTrainIds\.png"  # the suffix of labels that MMSegmentation's converters write
PREFIX = r"^(?:[^/]+/){0,2}"  # a release may lie in a folder or two of its own, not anywhere below


@dataclass(frozen=True)
class Layout:
    """One way the files lie. The patterns match relative paths; what their group
    ``key`` matches pairs an image with its label. ``{split}`` stands for ``splits[split]``.

    ``table``: raw value in the label files → class index or 255; ``colours``: raw values are RGB.
    ``split_list``: a pattern of list files, where the split is not in the path.
    """

    name: str
    image: str
    label: str
    table: Mapping[int, int]
    splits: Mapping[str, str]
    colours: bool = False
    split_list: str | None = None

    @property
    def image_form(self) -> str:
        """The image pattern as a person writes it."""
        return _plain(self.image)

    @property
    def label_form(self) -> str:
        """The label pattern as a person writes it."""
        return _plain(self.label)


@dataclass(frozen=True)
class Known:
    """A data set's facts. ``expected``: images per split, as published; ``labels``: in words."""

    name: str
    title: str
    classes: ClassSet
    layouts: tuple[Layout, ...]
    expected: Mapping[str, int]
    labels: str
    refuse: Mapping[str, str] = field(default_factory=dict)  # pattern → why and what to do


class KnownData:
    """A known data set at a place: the same face as a data folder (see folder.FolderData).

    Raises HfgdError where no layout of the data set is found.
    """

    def __init__(self, facts: Known, root: Path) -> None:
        self.facts, self.root, self.classes = facts, root, facts.classes
        self._files = list_files(root)
        for pattern, why in facts.refuse.items():
            if any(re.search(pattern, path) for path in self._files):
                raise HfgdError(f"'{root}': {why}")
        self._pairs: dict[str, tuple[dict[str, Source], dict[str, Source]]] = {}
        self.layout = self._find_layout()
        self.label_map = LabelMap(self.layout.table, self.layout.colours)

    def files(self, split: str) -> tuple[dict[str, Source], dict[str, Source]]:
        """Image files and label files of a split, by the key that pairs them."""
        if split not in self._pairs:
            self._pairs[split] = self._match(self.layout, split)
        return self._pairs[split]

    def splits(self) -> list[str]:
        """The splits that have labels here."""
        return [split for split in self.layout.splits if self.files(split)[1]]

    def _find_layout(self) -> Layout:
        found = {
            number: sum(len(pair.keys() & labels.keys()) for pair, labels in self._all(layout))
            for number, layout in enumerate(self.facts.layouts)
        }
        best = max(found, key=found.__getitem__)
        if found[best]:
            return self.facts.layouts[best]
        forms = "; ".join(
            f"{x.name}: {x.image_form} with {x.label_form}" for x in self.facts.layouts
        )
        raise HfgdError(
            f"'{self.root}' does not look like {self.facts.title}; known forms are {forms}."
        )

    def _all(self, layout: Layout) -> list[tuple[dict[str, Source], dict[str, Source]]]:
        return [self._match(layout, split) for split in layout.splits]

    def _match(self, layout: Layout, split: str) -> tuple[dict[str, Source], dict[str, Source]]:
        theirs = layout.splits.get(split)
        if theirs is None:
            return {}, {}
        found = []
        for pattern in (layout.image, layout.label):
            compiled = re.compile(PREFIX + pattern.replace("{split}", theirs) + "$")
            matches = ((compiled.search(path), source) for path, source in self._files.items())
            found.append({m["key"]: source for m, source in matches if m})
        images, labels = found
        if layout.split_list is not None:
            wanted = self._listed(layout.split_list.replace("{split}", theirs))
            images = {key: source for key, source in images.items() if key in wanted}
            labels = {key: source for key, source in labels.items() if key in wanted}
        return images, labels

    def _listed(self, pattern: str) -> set[str]:
        """The keys in a list file: the stem of the first word of each line."""
        compiled = re.compile(PREFIX + pattern + "$")
        for path, source in self._files.items():
            if compiled.search(path):
                handle = opened(source)
                data = handle.read_bytes() if isinstance(handle, Path) else handle.read()
                lines = data.decode("utf-8", errors="replace").split("\n")
                words = [line.split()[0] for line in lines if line.strip()]
                return {Path(word.replace("\\", "/")).stem for word in words}
        return set()


def ids(*raw: int, ignored: tuple[int, ...] = (IGNORE,)) -> dict[int, int]:
    """Raw ids in the order of the classes → 0, 1, 2, …; the others → ignore."""
    return dict.fromkeys(ignored, IGNORE) | {value: i for i, value in enumerate(raw)}


def _plain(pattern: str) -> str:
    """A layout's pattern as a person writes it."""
    return re.sub(r"\(\?P<key>[^)]*\)", "NAME", pattern).replace("\\.", ".").replace("\\", "")
