"""CPU time of ``hfgd data import`` and ``hfgd data check`` on generated pairs, against another state.

python benchmarks/data_checks.py FOLDER --before SRC [--pairs N] [--rounds N] [--only check] [--cpu N]

FOLDER receives the pairs, once. SRC is the ``src`` folder of the other state (``git worktree add``).
Each run is a fresh process; the two states take turns within each round, and who is first changes
from round to round. Time is user and system time of the process, which a busy machine disturbs less
than the clock; with --cpu (Linux) all runs stay on that CPU, since threads that wait for each other on
two busy ones cost up to as much again. The page is data_checks.md.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parents[1] / "src"
HEIGHT, WIDTH, KINDS = 96, 128, 5


def generate(folder: Path, pairs: int) -> Path:
    """``pairs`` images with three polygons each, in COCO's JSON."""
    source = folder / f"source{pairs}"
    if (source / "coco.json").is_file():
        return source
    (source / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images, shapes = [], []
    for i in range(pairs):
        name = f"scene{i:05d}.jpg"
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((WIDTH, HEIGHT)).save(source / "images" / name)
        images.append({"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for j in range(3):
            x, y, r = rng.uniform(20, 100), rng.uniform(20, 70), rng.uniform(8, 30)
            angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
            ring = np.stack([x + r * np.cos(angles), y + r * np.sin(angles)], 1)
            kind = int(rng.integers(KINDS)) + 1
            shapes.append({"id": 3 * i + j, "image_id": i, "category_id": kind, "iscrowd": 0})
            shapes[-1]["segmentation"] = [ring.clip(0, (WIDTH, HEIGHT)).round(2).ravel().tolist()]
    kinds = [{"id": k + 1, "name": f"class{k + 1}"} for k in range(KINDS)]
    (source / "coco.json").write_text(
        json.dumps({"images": images, "annotations": shapes, "categories": kinds})
    )
    return source


def cpu_seconds(src: Path, words: list[str]) -> float:
    """User and system time of ``hfgd`` with these words, from the code in ``src``."""
    before = os.times()
    subprocess.run(
        [sys.executable, "-c", "from hfgd.cli import main; main()", *words],
        env=os.environ | {"PYTHONPATH": str(src), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def one(folder: Path, source: Path, src: Path, only: str | None) -> dict[str, float]:
    """The commands, one after the other; a folder that is there is checked as it is."""
    out, found = folder / f"out{source.name}", {}
    if only != "check" or not out.is_dir():
        shutil.rmtree(out, ignore_errors=True)
        words = ["data", "import", str(source), "--out", str(out), "--unlabelled", "background"]
        found["import"] = cpu_seconds(src, words)
    if only != "import":
        found["check"] = cpu_seconds(src, ["data", "check", str(out)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("import", "check"))
    parser.add_argument("--cpu", type=int)
    asked = parser.parse_args()
    if asked.cpu is not None:
        os.sched_setaffinity(0, {asked.cpu})
    states = {"before": asked.before.resolve(), "now": HERE}
    source = generate(asked.folder, asked.pairs)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in states}
    for number in range(asked.rounds):
        for name in list(states)[:: 1 if number % 2 else -1]:
            found[name].append(one(asked.folder, source, states[name], asked.only))
            print(f"round {number + 1}, {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    print(f"| {asked.pairs:,} pairs, CPU seconds | before | now | now / before |")
    print("| --- | ---: | ---: | ---: |")
    for command in (asked.only,) if asked.only else ("import", "check"):
        times = [[run[command] for run in found[name] if command in run] for name in states]
        for how, of in (("median", statistics.median), ("least", min)):
            old, new = map(of, times)
            print(f"| `hfgd data {command}`, {how} | {old:.1f} | {new:.1f} | {new / old:.3f} |")


if __name__ == "__main__":
    main()
