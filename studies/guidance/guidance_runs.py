"""The runs of studies/guidance/README.md: trains what is not recorded yet, and packs the records.

    python studies/guidance/guidance_runs.py scale NYUV2 OUT        frames of 640×480 as 432×324
    python studies/guidance/guidance_runs.py list STUDY             what is recorded, what is left
    python studies/guidance/guidance_runs.py run STUDY --data DATA --weights FILE --out RUNS

STUDY: ``nyuv2`` (DATA: OUT; FILE: tf_efficientnet_lite0), ``camvid`` (DATA: camvid:FOLDER; FILE:
mobilenetv2_100; of its runs only those with a rate of the backbone's own, and in fp32, which every CPU
can) or ``recipes`` (the same DATA and FILE; the named recipes for small machines). One core a process;
several share RUNS, and each takes the first run that nobody has. An interrupted run goes on where its
last checkpoint is. Everything is in the records (``records.py``) as soon as it is done, so
that RUNS may be lost between two runs.
"""

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hfgd.checkpoint import load_model
from hfgd.errors import HfgdError
from hfgd.files import write_text
from hfgd.model.build import build
from hfgd.recipes import find_recipe
from hfgd.training.fit import fit
from records import add, read

Cell = tuple[str, str, dict[str, Any]]
SIZE = (432, 324)
BASE: dict[str, Any] = {
    "model.backbone.bn_momentum": None,
    "model.backbone.multi_grid": None,
    "model.width": 64,
    "optim.name": "adamw",
    "optim.weight_decay": 0.01,
    "train.batch_size": 8,
    "train.workers": 0,
}
NYUV2: dict[str, Any] = {
    "model.backbone.name": "tf_efficientnet_lite0",
    "model.backbone.mean": [0.5, 0.5, 0.5],
    "model.backbone.std": [0.5, 0.5, 0.5],
    "augment.crop": [289, 353],
    "train.loggers": [],
    "train.panels": 1,
    "train.checkpoint_every": 50,
}
CAMVID: dict[str, Any] = {
    "model.backbone.name": "mobilenetv2_100",
    "augment.crop": [225, 289],
    "train.checkpoint_every": 230,
}
RECIPES: dict[str, Any] = {  # all else is as they have it
    "model.backbone.name": "mobilenetv2_100",
    "train.workers": 0,
    "train.checkpoint_every": 230,
}
SCHEDULE = 500  # iterations on NYUv2
NONE, GUIDANCE, FULL = "table3/none", "table3/guidance", "table3/full"
OPEN = "section5.2/no_stop_gradient"
FCN = "section5.1/fcn"
OTHERS = (
    OPEN,
    "table3/aa",
    FCN,
    "section5.1/aux_fcn_joint",
    "section5.1/aux_fcn_stopped",
    "table9/hfgd_os4",
)
# the baseline's best by the rate runs, as far as they have come; SMALL keeps the pre-trained features
RATE, FACTOR, SMALL = 1e-3, 1.0, 0.1


@dataclass(frozen=True)
class Study:
    """``name``: in the records; ``base``: what its runs share; ``plan``: the runs, in the order of what
    they tell; ``validations``: how often a run is scored, its end included."""

    name: str
    base: dict[str, Any]
    plan: Callable[[], list[Cell]]
    validations: int


def cell(group: str, row: str, seed: int = 0, **changes: Any) -> Cell:
    """A run: its folder below RUNS, its row, what it changes; ``a__b`` stands for the key a.b."""
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    settings = {
        "train.iterations": SCHEDULE,
        "optim.lr": RATE,
        "optim.backbone_lr": FACTOR,
        "train.seed": seed,
    }
    return f"{group}/{row.replace('/', '-')}/seed{seed}", row, settings | keys


def rates(*rows: str) -> Iterator[Cell]:
    """Half the schedule, first seed: the factors at the middle rate, then the rates at the best one."""
    tried = [(1e-3, factor) for factor in (1.0, 0.3, 0.1, 0.03)]
    tried += [(rate, FACTOR) for rate in (2e-3, 5e-4)]
    for row in rows:
        for rate, factor in tried:
            name = f"rates-lr{rate:g}-factor{factor:g}"
            yield cell(
                name,
                row,
                train__iterations=SCHEDULE // 2,
                optim__lr=rate,
                optim__backbone_lr=factor,
            )


def nyuv2() -> list[Cell]:
    """Rates and the claim first; then the first seed of every other question, then its other seeds."""
    claim = [(seed, row) for seed in range(3) for row in (NONE, FULL)]
    found = [*rates(NONE), *(cell("main", row, seed) for seed, row in claim[:4])]
    # whether it is only faster at first is the next question
    found += twice(0)
    found += [cell("main", row, seed) for seed, row in claim[4:]]
    found += [cell("main", GUIDANCE, seed) for seed in range(3)]
    found += [*others(0), *small(0), *random(0), *rates(FCN)]
    for part in (others, small, twice, random):
        found += [*part(1), *part(2)]
    return found


def others(seed: int) -> list[Cell]:
    """The claim's other rows."""
    return [cell("main", row, seed) for row in OTHERS]


def small(seed: int) -> list[Cell]:
    """With the pre-trained features kept."""
    return [cell("small", row, seed, optim__backbone_lr=SMALL) for row in (NONE, FULL, GUIDANCE)]


def random(seed: int) -> list[Cell]:
    """With no pre-trained features."""
    keys = {"model__backbone__pretrained": False, "optim__backbone_lr": 1.0}
    return [cell("random", row, seed, **keys) for row in (NONE, FULL, GUIDANCE)]


def twice(seed: int) -> list[Cell]:
    """On twice the schedule."""
    return [cell("twice", row, seed, train__iterations=2 * SCHEDULE) for row in (FULL, NONE)]


def camvid() -> list[Cell]:
    """Rows of the first study once more in fp32, since it was run in bf16; and with the backbone at a
    tenth of the heads' rate."""
    keys = {"train__iterations": 920, "optim__lr": 1e-3}
    small, whole = f"factor{SMALL:g}", "fp32"
    found = [(whole, row, 0, 1.0) for row in (NONE, FULL)]
    found += [
        (small, row, seed, SMALL) for seed in range(3) for row in (NONE, FULL, GUIDANCE, OPEN)
    ]
    found += [(whole, GUIDANCE, 0, 1.0)]
    found += [(whole, row, seed, 1.0) for seed in (1, 2) for row in (NONE, GUIDANCE, FULL)]
    return [
        cell(group, row, seed, optim__backbone_lr=factor, **keys)
        for group, row, seed, factor in found
    ]


def recipes() -> list[Cell]:
    """The named recipes for small machines at 5e-4 and at twice it, on CamVid's schedule."""
    return [
        cell(f"lr{rate:g}", row, seed, train__iterations=920, optim__lr=rate)
        for seed in range(3)
        for rate in (1e-3, 5e-4)
        for row in ("sfpn_mobilenetv2", "hfgd_mobilenetv2")
    ]


STUDIES = {
    "nyuv2": Study("nyuv2-guidance", BASE | NYUV2, nyuv2, validations=2),
    "camvid": Study("camvid-guidance", BASE | CAMVID, camvid, validations=4),
    "recipes": Study("small-recipes", RECIPES, recipes, validations=4),
}


def recorded(study: Study) -> set[str]:
    """Names of the runs that are in the records."""
    try:
        return {run["run"] for run in read(study.name)}
    except HfgdError:  # none yet
        return set()


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process alone has the run."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def moved(run: Path, base: dict[str, Any], pretrained: str) -> float:
    """How far training moved the pre-trained convolutions: ‖w − w₀‖ / ‖w₀‖ over all of them."""
    network = load_model(run)
    spec = find_recipe(NONE).with_(**base, **{"model.backbone.pretrained": pretrained}).model
    first = build(spec, network.classes).backbone.state_dict()
    pairs = [
        (now, first[name])
        for name, now in network.backbone.state_dict().items()
        if name.endswith("weight") and now.ndim == 4
    ]
    change = sum(float((now - before).square().sum()) for now, before in pairs)
    return (change / sum(float(before.square().sum()) for _, before in pairs)) ** 0.5


def train(
    study: Study, row: str, changes: dict[str, Any], folder: Path, given: argparse.Namespace
) -> None:
    """Train, score the guide too, and note how far the backbone moved."""
    recipe = find_recipe(row).with_(
        **study.base
        | {
            "data.location": given.data,
            "model.backbone.pretrained": given.weights,
            "train.validate_every": changes["train.iterations"] // study.validations,
        }
        | changes
    )
    if not (folder / "report.json").is_file():
        fit(recipe, folder, resume=(folder / "recipe.yaml").is_file())
    if recipe.model.guidance.share_tokens and not (folder / "guide" / "report.json").is_file():
        command = [sys.executable, "-m", "hfgd", "eval", folder, "--data", given.data]
        command += ["--branch", "guide", "--boundary", "0", "--gallery", "0"]
        subprocess.run([*command, "--workers", "0", "--out", folder / "guide"], check=True)
    if recipe.model.backbone.pretrained:
        facts = {"moved": moved(folder, study.base, given.weights)}
        write_text(folder / "facts.json", json.dumps(facts) + "\n")


def run(given: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    study = STUDIES[given.study]
    for name, row, changes in study.plan():
        folder = given.out / name
        with claimed(folder) as mine:
            if not mine or name in recorded(study):
                continue
            began = time.monotonic()
            print(name, flush=True)
            train(study, row, changes, folder, given)
            add(study.name, folder, root=given.out)
            print(f"{name}: recorded, {(time.monotonic() - began) / 60:.0f} min", flush=True)


def scale(source: Path, out: Path) -> None:
    """The data folder with every frame at SIZE; labels by the nearest pixel."""
    if not (source / "data.yaml").is_file():
        raise HfgdError(f"'{source}' is no data folder: it has no data.yaml; give that of NYUv2.")
    for path in sorted(source.rglob("*.[jp][pn]g")):
        image = Image.open(path)
        label = path.relative_to(source).parts[0] == "labels"
        target = out / path.relative_to(source).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        way = Image.Resampling.NEAREST if label else Image.Resampling.LANCZOS
        image.resize(SIZE, way).save(target)
    text = (source / "data.yaml").read_text(encoding="utf-8")
    (out / "data.yaml").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    scaling = commands.add_parser("scale")
    scaling.add_argument("source", type=Path)
    scaling.add_argument("out", type=Path)
    listing, running = commands.add_parser("list"), commands.add_parser("run")
    for one in (listing, running):
        one.add_argument("study", choices=STUDIES)
    running.add_argument("--data", required=True, help="what 'scale' wrote, or camvid:FOLDER")
    running.add_argument("--weights", required=True, help="the backbone's, as safetensors")
    running.add_argument("--out", type=Path, required=True, help="where the runs go")
    given = parser.parse_args()
    try:
        if given.command == "scale":
            scale(given.source, given.out)
        elif given.command == "list":
            study = STUDIES[given.study]
            done = recorded(study)
            for name, _, _ in study.plan():
                print("done" if name in done else "left", name)
        else:
            run(given)
    except HfgdError as error:  # a mistake, or a run that was stopped and has saved what it has
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
