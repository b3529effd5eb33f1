"""Labels corrupted on purpose: are they found?

    python benchmarks/review.py held-out RUN DATA [--split val]
    python benchmarks/review.py folds OUT [--images 200] [--iterations 300] [--folds 3] [--set K=V …]

``held-out``: a model judges labels it never saw, as they are and in three corrupted forms; data sets
with 5 % corrupted images are then drawn 500 times from these scores, which depend on one image each.
``folds``: scenes are written out with 5 % of the labels corrupted; a model trained on them judges them,
and so do the models of ``hfgd review --folds``.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import rankdata

from hfgd.data.classes import IGNORE
from hfgd.data.open import open_dataset
from hfgd.data.prediction import palette_image
from hfgd.data.scenes import ScenesDataset
from hfgd.data.write_folder import export
from hfgd.inference.labeller import InferenceConfig, open_labeller
from hfgd.review.quality import QualityTerms, Sums

SHARE, TRIALS = 0.05, 500
KINDS = {
    "swapped": "two classes exchanged",
    "shifted": "one region moved",
    "exchanged": "the mask of another image",
}
SCORES = {  # the larger, the more doubtful
    "soft minimum (quality)": lambda f: -f.quality,
    "plain loss": lambda f: f.loss,
    "mean probability": lambda f: -f.mean,
    "share of suspect regions": lambda f: f.suspect,
}


def corrupt(kind, label, other, rng):
    """A label (H, W) with a mistake; ``other`` is another image's."""
    counts = np.bincount(label[label != IGNORE], minlength=1)
    large = np.flatnonzero(counts >= 0.01 * label.size)
    if kind == "exchanged":
        return other.copy()
    if kind == "swapped":
        a, b = rng.choice(large, 2, replace=False)
        changed = label.copy()
        changed[label == a], changed[label == b] = b, a
        return changed
    # one connected region of at least 1 % of the image moves by a tenth of its width and height
    for index in rng.permutation(large):
        parts, _ = ndimage.label(label == index)
        sizes = np.bincount(parts.ravel())[1:]
        wanted = np.flatnonzero((sizes >= 0.01 * label.size) & (sizes < 0.4 * label.size))
        if not len(wanted):
            continue
        region = parts == 1 + rng.choice(wanted)
        by = [int(side // 10 * rng.choice([-1, 1])) for side in label.shape]
        moved = np.zeros_like(region)
        rows, columns = np.nonzero(region)
        inside = (
            (rows + by[0] >= 0)
            & (rows + by[0] < label.shape[0])
            & (columns + by[1] >= 0)
            & (columns + by[1] < label.shape[1])
        )
        moved[rows[inside] + by[0], columns[inside] + by[1]] = True
        # what it leaves behind becomes the nearest other label
        _, (near_rows, near_columns) = ndimage.distance_transform_edt(region, return_indices=True)
        changed = label[near_rows, near_columns]
        changed[moved] = index
        return changed
    return None


def judged(labeller, image, labels):
    """What is found of several labels of one image, in one pass."""
    sums = [Sums(torch.from_numpy(label), QualityTerms()) for label in labels]
    maps = labeller.reduced(
        image, lambda rows, scores: torch.stack([s.add(rows, scores) for s in sums], 2)
    )
    maps = maps.cpu().numpy()
    return [s.found(maps[..., i, 0], maps[..., i, 1], labeller.classes) for i, s in enumerate(sums)]


def auroc(doubt, bad):
    """Probability that a corrupted image is more doubtful than a clean one."""
    ranks = rankdata(doubt)
    positives, negatives = bad.sum(), (~bad).sum()
    return (ranks[bad].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def at_top(doubt, bad):
    """Share of corrupted images among as many of the most doubtful as there are."""
    return bad[np.argsort(-doubt, kind="stable")[: bad.sum()]].mean()


def held_out(run, data, split):
    labeller, dataset = open_labeller(run, InferenceConfig()), open_dataset(data, split)
    rng, rows = np.random.default_rng(0), []
    for i in range(len(dataset)):
        image, label, _ = dataset[i]
        other = dataset[int((i + rng.integers(1, len(dataset))) % len(dataset))].label.numpy()
        label = label.numpy()
        bad = [corrupt(kind, label, other, rng) for kind in KINDS]
        found = judged(labeller, image, [label, *(label if b is None else b for b in bad)])
        rows.append(
            [f if b is not None else None for f, b in zip(found, [label, *bad], strict=True)]
        )
        print(f"{i + 1}/{len(dataset)}", file=sys.stderr, end="\r")
    count = max(1, round(SHARE * len(rows)))
    print(f"{dataset.title}: {len(rows)} images, {count} corrupted in each of {TRIALS} draws\n")
    print("| corruption | score | area under the curve | precision at the top |")
    print("| --- | --- | ---: | ---: |")
    for kinds in ([1], [2], [3], [1, 2, 3]):
        name = "all three kinds" if len(kinds) > 1 else list(KINDS.values())[kinds[0] - 1]
        for score, doubt_of in SCORES.items():
            rng = np.random.default_rng(1)
            results = []
            for _ in range(TRIALS):
                form = np.zeros(len(rows), dtype=int)
                form[rng.permutation(len(rows))[:count]] = rng.choice(kinds, count)
                form = [f if row[f] is not None else 0 for f, row in zip(form, rows, strict=True)]
                bad = np.array(form) > 0
                if not bad.any():
                    continue
                doubt = np.array([doubt_of(row[f]) for f, row in zip(form, rows, strict=True)])
                results.append((auroc(doubt, bad), at_top(doubt, bad)))
            area, top = np.mean(results, axis=0)
            print(f"| {name} | {score} | {area:.3f} | {100 * top:.1f} % |")
        print(f"| {name} | chance | 0.500 | {100 * count / len(rows):.1f} % |")


def folds(out, images, iterations, number, more):
    data, rng = out / "data", np.random.default_rng(0)
    if not (data / "corrupted.json").exists():
        sets = {"train": ScenesDataset("train", images), "val": ScenesDataset("val", 20)}
        export(sets, data)
        train = sets["train"]
        chosen = rng.permutation(images)[: round(SHARE * images)]
        kinds = {}
        for number_of, i in enumerate(chosen.tolist()):
            kind = list(KINDS)[number_of % len(KINDS)]
            other = train[(i + int(rng.integers(1, images))) % images].label.numpy()
            label = corrupt(kind, train[i].label.numpy(), other, rng)
            if label is None:
                continue
            palette_image(label, train.classes).save(data / "labels/train" / f"{train[i].name}.png")
            kinds[f"train/{train[i].name}"] = kind
        (data / "corrupted.json").write_text(json.dumps(kinds))
    kinds = json.loads((data / "corrupted.json").read_text())
    hfgd = [sys.executable, "-m", "hfgd"]
    run = out / "run"
    if not (run / "report.json").exists():
        settings = [f"train.iterations={iterations}", f"train.validate_every={iterations}"]
        settings += ["train.workers=0", "train.loggers=[]", "augment.crop=[129, 161]", *more]
        words = [word for setting in settings for word in ("--set", setting)]
        subprocess.run(
            [*hfgd, "train", "demo_sfpn", "--data", data, "--out", run, *words], check=True
        )
    for name, extra in (("in-sample", []), ("folds", ["--folds", str(number)])):
        words = ["--data", data, "--split", "train", "--workers", "0", "--out", out / name]
        subprocess.run([*hfgd, "review", run, *words, *extra], check=True)
    print(f"scenes: {images} images, {len(kinds)} corrupted, {iterations} iterations\n")
    print("| judged | score | area under the curve | precision at the top |")
    print("| --- | --- | ---: | ---: |")
    from hfgd.review.quality import Found

    for name in ("in-sample", "folds"):
        with (out / name / "labels.jsonl").open() as file:
            rows = [json.loads(line) for line in file]
        bad = np.array([row["key"] in kinds for row in rows])
        for score, doubt_of in SCORES.items():
            doubt = np.array([doubt_of(Found.of(row)) for row in rows])
            print(
                f"| {name} | {score} | {auroc(doubt, bad):.3f} | {100 * at_top(doubt, bad):.0f} % |"
            )
    print(f"| | chance | 0.500 | {100 * bad.mean():.0f} % |")


def main():
    parser = argparse.ArgumentParser()
    ways = parser.add_subparsers(dest="way", required=True)
    first = ways.add_parser("held-out")
    first.add_argument("run")
    first.add_argument("data")
    first.add_argument("--split", default="val")
    second = ways.add_parser("folds")
    second.add_argument("out", type=Path)
    second.add_argument("--images", type=int, default=200)
    second.add_argument("--iterations", type=int, default=300)
    second.add_argument("--folds", type=int, default=3)
    second.add_argument("--set", nargs="*", default=[], help="further changes to the recipe")
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.way == "held-out":
        held_out(a.run, a.data, a.split)
    else:
        folds(a.out, a.images, a.iterations, a.folds, a.set)


if __name__ == "__main__":
    main()
