"""The run folder: every file of a run and what it is called."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from hfgd import __version__
from hfgd.errors import HfgdError
from hfgd.files import write_text
from hfgd.parallel.launch import is_main, launched
from hfgd.recipes.spec import Recipe, check_recipe, first_difference, read_recipe_yaml


class RunFolder:
    """Paths of a run. ``state`` is what --resume goes on from; ``last`` and ``best`` are models."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.yaml"
        self.environment = root / "environment.json"
        self.logs = root / "logs"
        self.train_csv = root / "logs" / "train.csv"
        self.val_csv = root / "logs" / "val.csv"
        self.state = root / "state.ckpt"
        self.counts = root / "class-counts.npy"
        self.last = root / "last"
        self.best = root / "best"

    def kept(self, iteration: int) -> Path:
        """The model of one iteration, kept for good."""
        return self.root / "kept" / f"{iteration:07d}"

    def start(self, recipe: Recipe) -> None:
        """Begin a new run here; a folder that holds one is refused. One process of many does it."""
        if not is_main():
            return
        if self.recipe.exists():
            raise HfgdError(
                f"'{self.root}' already holds a run; go on with --resume, or choose another --out."
            )
        self.root.mkdir(parents=True, exist_ok=True)
        write_text(self.environment, json.dumps(environment(), indent=1) + "\n")
        write_text(self.recipe, recipe.yaml())

    def resume(self, recipe: Recipe | None) -> Recipe:
        """The recipe of the run that lies here; ``recipe``, where given, must be the same one."""
        if not self.recipe.is_file():
            raise HfgdError(
                f"'{self.root}' holds no run to resume; leave --resume out to start one."
            )
        stored = check_recipe(read_recipe_yaml(self.recipe), str(self.recipe))
        difference = recipe and first_difference(stored, recipe)
        if difference:
            raise HfgdError(
                f"'{self.root}' is a run of another recipe: {difference}; "
                "resume it as it was, or choose another --out."
            )
        return stored


def free_folder(name: str, root: Path = Path("runs")) -> Path:
    """``runs/NAME``, or ``runs/NAME-2`` and so on where that exists."""
    folder, number = root / name, 1
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return folder


def environment(arguments: Sequence[str] | None = None) -> dict[str, object]:
    """What the run ran on: versions, machine, command."""
    packages = ("torch", "torchvision", "timm", "lightning", "numpy", "pillow")
    return {
        "command": ["hfgd", *(sys.argv[1:] if arguments is None else arguments)],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": launched()[1],
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {"hfgd": __version__, **{name: version(name) for name in packages}},
    }
