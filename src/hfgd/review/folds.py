"""Models that never saw what they judge: the images are dealt into folds, and each fold is judged by a
network trained on the others. A model forgives what it was trained on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfgd.checkpoint import is_by_hand
from hfgd.data.group_split import find_groups
from hfgd.errors import HfgdError
from hfgd.progress import say
from hfgd.recipes.spec import Recipe, check_recipe, read_recipe_yaml
from hfgd.review.pool import Chosen, Pool
from hfgd.training.fit import fit
from hfgd.training.run_folder import RunFolder
from hfgd.training.stop import Interrupted, Terminated


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
    pool: Pool,
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
    say(f"fold {fold + 1} of {max(fold_of) + 1}: {len(sides[0])} images to train on")
    started = folder.recipe.is_file()
    try:
        fit(recipe, folder.root, resume=started, data=(sides[0], sides[1]), code=code)
    except (Interrupted, Terminated) as error:
        raise type(error)(
            f"stopped in fold {fold + 1}, all is saved; the same command goes on."
        ) from error
    return folder.root
