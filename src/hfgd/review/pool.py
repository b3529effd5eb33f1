"""The images whose labels are reviewed: those of one split or of several, as one data set."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hfgd.checkpoint import is_by_hand
from hfgd.data.dataset import Sample, SegDataset, label_of
from hfgd.data.folder import FolderDataset
from hfgd.data.importing.split import find_groups
from hfgd.data.open import SCENES, open_dataset, open_files
from hfgd.errors import HfgdError
from hfgd.progress import say
from hfgd.recipes.spec import Recipe, check_recipe, read_recipe_yaml
from hfgd.text import counted
from hfgd.training.failures import Interrupted, Terminated
from hfgd.training.fit import fit
from hfgd.training.run_folder import RunFolder

SPLITS = ("train", "val")  # what is reviewed unless told otherwise


class ReviewSet:
    """The splits of a data set one after the other. ``keys``: split and name of each image."""

    def __init__(self, parts: dict[str, SegDataset]) -> None:
        self.parts = parts
        first = next(iter(parts.values()))
        self.classes = first.classes
        self.title = " + ".join(part.title for part in parts.values())
        self.places = [(split, i) for split, part in parts.items() for i in range(len(part))]
        self.keys = [f"{split}/{self._name(split, i)}" for split, i in self.places]

    @classmethod
    def open(cls, data: str, splits: Sequence[str], data_yaml: Path | None) -> "ReviewSet":
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


# ---- folds ---------------------------------------------------------------------------------------


def deal(names: Sequence[str], folds: int, by: str | None = None, seed: int = 0) -> list[int]:
    """The fold of each image: whole groups (``by``: see find_groups), as even as they allow.

    Raises HfgdError for fewer groups than folds. The same names give the same folds.
    """
    group_of = {n: n for n in names} if by is None else find_groups(by, list(names))
    members: dict[str, int] = {}
    for name in names:
        members[group_of[name]] = members.get(group_of[name], 0) + 1
    if len(members) < folds:
        what = "images" if by is None else f"groups by '{by}'"
        raise HfgdError(f"--folds {folds} needs as many {what}, and there are {len(members)}.")
    groups = sorted(members)
    order = np.random.default_rng(seed).permutation(len(groups))
    filled = [0] * folds
    fold_of: dict[str, int] = {}
    for i in sorted(order.tolist(), key=lambda i: -members[groups[i]]):
        fold = filled.index(min(filled))
        fold_of[groups[i]] = fold
        filled[fold] += members[groups[i]]
    return [fold_of[group_of[name]] for name in names]


def fold_recipe(run: str, changes: dict[str, Any]) -> Recipe:
    """The recipe that a run was trained by, for its folds; raises HfgdError for what is no run."""
    folder = RunFolder(Path(run))
    if not folder.recipe.is_file():
        raise HfgdError(
            f"--folds trains by the recipe of a run, and '{run}' has no {folder.recipe.name}; give "
            "a run folder, or leave --folds out."
        )
    if is_by_hand(folder.last):
        raise HfgdError(
            f"the network of '{run}' was put together in Python without a builder, so its folds "
            "cannot be trained; leave --folds out."
        )
    recipe = check_recipe(read_recipe_yaml(folder.recipe), str(folder.recipe)).with_(**changes)
    # held-out images are looked at once, and decide nothing; without a location nobody can go on
    # with a fold on all of the images
    kept = {"train.validate_every": recipe.train.iterations, "train.panels": 1}
    return recipe.with_(**kept, **{"data.location": None, "data.data_yaml": None})


def train_fold(
    recipe: Recipe,
    pool: ReviewSet,
    fold_of: Sequence[int],
    fold: int,
    out: Path,
    code: Path | None = None,
) -> Path:
    """Train the network that judges ``fold``, or go on with it; returns its run folder."""
    folder = RunFolder(out / "folds" / f"{fold + 1}")
    sides = [
        Chosen(pool, [i for i, f in enumerate(fold_of) if (f == fold) is held], title)
        for held, title in ((False, f"all but fold {fold + 1}"), (True, f"fold {fold + 1}"))
    ]
    if (folder.root / "report.json").is_file():
        return folder.root
    say(f"fold {fold + 1} of {max(fold_of) + 1}: {counted(len(sides[0]), 'image')} to train on")
    started = folder.recipe.is_file()
    try:
        fit(recipe, folder.root, resume=started, data=(sides[0], sides[1]), code=code)
    except (Interrupted, Terminated) as error:
        raise type(error)(
            f"stopped in fold {fold + 1}, all is saved; the same command goes on."
        ) from error
    return folder.root
