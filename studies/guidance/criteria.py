"""Do the criteria, the sampling and the augmentation help? A row each, over seeds; can be resumed.

    python studies/guidance/criteria.py --data camvid:DATA --weights FILE --out RUNS [--only dice]

A row is the base recipe with the keys below changed; every run is a run folder in RUNS/ROW/seedN. A run
that is done is not repeated, one that was interrupted goes on; one core each. After every run the table
is put into docs/results/criteria.md, between its marks; ``--table`` writes it alone, from what is
there. Δ is to the base, seed by seed; rows that lose stay in.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from hfgd.data.open import open_dataset
from hfgd.recipes import Recipe, find_recipe, parse_overrides
from hfgd.training.fit import fit
from hfgd.training.run_folder import RunFolder
from study_page import put, spread, table

PAGE = Path(__file__).parents[2] / "docs" / "results" / "criteria.md"
BASE = "base"
ROWS = {
    BASE: {},
    "class weights": {"loss.class_weights": "counted"},
    "label smoothing 0.1": {"loss.label_smoothing": 0.1},
    "ohem": {"loss.criterion": "ohem"},
    "focal": {"loss.criterion": "focal"},
    "dice": {"loss.criterion": "dice"},
    "cross_entropy + dice": {"loss.criterion": {"cross_entropy": 1, "dice": 1}},
    "tversky": {"loss.criterion": "tversky"},
    "cross_entropy + tversky": {"loss.criterion": {"cross_entropy": 1, "tversky": 1}},
    "lovasz": {"loss.criterion": "lovasz"},
    "cross_entropy + lovasz": {"loss.criterion": {"cross_entropy": 1, "lovasz": 1}},
    "rotation 10": {"augment.rotation": 10},
    "perspective 0.3": {"augment.perspective": 0.3},
    "blur 1.5": {"augment.blur": 1.5},
    "noise 0.05": {"augment.noise": 0.05},
    "gamma 0.3": {"augment.gamma": 0.3},
    "jpeg 40": {"augment.jpeg": 40},
    "grey 0.1": {"augment.grey": 0.1},
    "channel shuffle 0.1": {"augment.channel_shuffle": 0.1},
    "max_class_share 0.75": {"augment.max_class_share": 0.75},
    "cutmix 0.5": {"augment.cutmix": 0.5},
    "copy-paste of the rarest three": {"augment.copy_paste": "counted"},
    "rare_class_sampling 0.5": {"augment.rare_class_sampling": 0.5},
}


def counted(changes: dict, recipe: Recipe) -> dict:
    """The changes, with what the data decide filled in."""
    if "counted" not in changes.values():
        return changes
    from hfgd.data.statistics import class_shares, class_weights

    dataset = open_dataset(recipe.data.location, recipe.data.train_split)
    pixels = class_shares(dataset, len(dataset))[0][:-1]
    names = [dataset.classes.names[i] for i in pixels.argsort()[:3]]
    found = {"loss.class_weights": class_weights(pixels, "log"), "augment.copy_paste": names}
    return {key: found[key] if v == "counted" else v for key, v in changes.items()}


def base_recipe(arguments: argparse.Namespace) -> Recipe:
    recipe = find_recipe(arguments.recipe)
    changes = {
        "data.location": arguments.data,
        "augment.crop": arguments.crop,
        "train.iterations": arguments.iterations,
        "train.batch_size": arguments.batch,
        "train.validate_every": arguments.iterations,
        "train.checkpoint_every": arguments.checkpoint_every,
        "train.workers": 0,
        "train.loggers": [],
        "train.panels": 1,
        "model.backbone.pretrained": arguments.weights or False,
    }
    return recipe.with_(**changes | parse_overrides(arguments.settings))


def run(row: str, seed: int, base: Recipe, folder: Path) -> float:
    """The mIoU of one run, as a fraction; trained if it is not there."""
    report = folder / "report.json"
    recipe = base.with_(**{**counted(ROWS[row], base), "train.seed": seed})
    if report.is_file():
        RunFolder(folder).resume(recipe)  # refuses a run of other settings
    else:
        fit(recipe, folder, resume=(folder / "state.ckpt").is_file())
    return float(json.loads(report.read_text(encoding="utf-8"))["mIoU"])


def folder_of(out: Path, row: str, seed: int) -> Path:
    return out / "".join(c if c.isalnum() else "-" for c in row) / f"seed{seed}"


def found_scores(out: Path) -> dict[str, dict[int, float]]:
    """mIoU in percent of every finished run, by row and seed."""
    scores: dict[str, dict[int, float]] = {}
    for row in ROWS:
        for report in sorted(folder_of(out, row, 0).parent.glob("seed*/report.json")):
            miou = json.loads(report.read_text(encoding="utf-8"))["mIoU"]
            scores.setdefault(row, {})[int(report.parent.name[4:])] = 100 * miou
    return scores


def results(scores: dict[str, dict[int, float]]) -> str:
    """The table: mean ± standard deviation over the seeds, Δ over the seeds that both have."""
    lines = []
    for row, miou in scores.items():
        base = scores.get(BASE, {})
        deltas = [miou[seed] - base[seed] for seed in miou if seed in base and row != BASE]
        keys = ", ".join(f"`{key}: {json.dumps(v)}`" for key, v in ROWS[row].items())
        every = " ".join(f"{value:+.2f}" for value in deltas)
        lines.append(
            [
                row,
                keys,
                str(len(miou)),
                spread(list(miou.values())),
                spread(deltas, "+") if deltas else "",
                every,
            ]
        )
    head = ["row", "changed", "seeds", "mIoU", "Δ to the base", "Δ of every seed"]
    return table(head, "llrrrr", lines)


def settings(arguments: argparse.Namespace) -> str:
    weights = "ImageNet weights" if arguments.weights else "random weights"
    return (
        f"`{arguments.recipe}`, {weights}, {arguments.data.rpartition('/')[2]}, crops of "
        f"{arguments.crop[0]}×{arguments.crop[1]}, batch {arguments.batch}, "
        f"{arguments.iterations} iterations, fp32, one core"
        + "".join(f", `{setting}`" for setting in arguments.settings)
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="a data folder, NAME:PATH, or scenes")
    parser.add_argument("--out", type=Path, required=True, help="where the runs go")
    parser.add_argument("--weights", help="the backbone's weights, a file; random without it")
    parser.add_argument("--recipe", default="sfpn_mobilenetv2")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, nargs=2, default=[161, 225])
    parser.add_argument("--checkpoint-every", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=ROWS, help="these rows, and no others")
    parser.add_argument("--set", dest="settings", nargs="*", default=[], help="keys of the base")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--table", action="store_true", help="write the table, run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base, page = base_recipe(arguments), arguments.page
    # a seed of every row before the next one: the table is whole early
    todo = [(r, s) for s in range(arguments.seeds) for r in arguments.only or ROWS]
    for number, (row, seed) in enumerate([] if arguments.table else todo, start=1):
        began = time.monotonic()
        miou = run(row, seed, base, folder_of(arguments.out, row, seed))
        spent = time.monotonic() - began
        print(
            f"[{number}/{len(todo)}] {row}, seed {seed}: {100 * miou:.2f} ({spent:.0f} s)",
            flush=True,
        )
        write(page, arguments)
    write(page, arguments)
    print(f"written: {page}")


def write(page: Path, arguments: argparse.Namespace) -> None:
    parts = {"criteria": results(found_scores(arguments.out)), "settings": settings(arguments)}
    page.write_text(put(page, parts), encoding="utf-8")


if __name__ == "__main__":
    main()
