"""Does guidance help? The paper's Table 3 on CamVid (docs/results/camvid-guidance.md).

    python benchmarks/camvid_guidance.py run --data camvid --weights FILE [--workers 2]
    python benchmarks/camvid_guidance.py page

``run`` trains what is not yet recorded, several runs side by side with one thread each, and may be
interrupted and started again. Of a finished run it keeps recipe, scores and curves below
``benchmarks/camvid_guidance/`` in the layout of ``hfgd ablate``, and the models in ``--runs``.
``page`` puts the tables of these records into the page, between its ``<!-- table: … -->`` marks, and
draws its plots.
"""

import argparse
import csv
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from hfgd.progress import format_duration
from hfgd.recipes import ROWS

RECORDS = Path(__file__).with_suffix("")
PAGE = Path(__file__).parents[1] / "docs" / "results" / "camvid-guidance.md"
PICTURES = PAGE.parents[1] / "pictures"
STARTS = ("pretrained", "random")
ROW_NAMES = {
    "table3/none": "none",
    "table3/guidance": "+ guidance",
    "table3/aa": "+ AA",
    "table3/full": "full",
    "section5.2/no_stop_gradient": "full, no stop-gradients",
    "table9/hfgd_os4": "cae + u_sfpn, full, stride 4",
    "table9/hfgd_os2": "cae + u_sfpn, full, stride 2",
}
BASELINE = "table3/none"
DEAREST = "table9/hfgd_os2"  # two and a half times the baseline's time
# every row's rates, and those of the baseline, which show that the best is not outside
RATES = {"pretrained": ("5e-4", "1e-3", "2e-3"), "random": ("2e-3", "4e-3", "8e-3")}
BASELINE_RATES = RATES | {"random": ("1e-3", "2e-3", "4e-3", "8e-3")}
SEEDS = (0, 1, 2)
SETTINGS = {
    "model.backbone.name": "mobilenetv2_100",
    "model.backbone.bn_momentum": "null",
    "model.width": "64",
    "augment.crop": "[225,289]",
    "optim.name": "adamw",
    "optim.weight_decay": "0.01",
    "train.iterations": "920",
    "train.batch_size": "8",
    "train.precision": "bf16-mixed",
    "train.channels_last": "true",
    "train.validate_every": "230",
    "train.checkpoint_every": "230",
    "train.workers": "0",
}
# what explains the result: a schedule twice as long, a finer guide, tokens or backbone that the fine
# loss reaches, a guide that counts less, smaller crops
VARIANTS = {
    "os16": {"model.backbone.output_stride": "16"},
    "open_tokens": {"model.guidance.stop_tokens": "false"},
    "open_features": {"model.guidance.stop_features": "false"},
    "guide0.4": {"loss.guide": "0.4"},
    "it1840": {"train.iterations": "1840"},
    "crop161": {"augment.crop": "[161,225]"},
}
VARIANT_NAMES = {
    "os16": "stride-16 pyramid",
    "open_tokens": "the fine loss reaches the tokens",
    "open_features": "the fine loss reaches the backbone",
    "guide0.4": "the guide's loss × 0.4",
    "it1840": "1840 iterations",
    "crop161": "crops of 161×225",
}
# freed memory is kept, in huge pages, instead of being given back and cleared for every tensor
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


@dataclass(frozen=True)
class Job:
    """One run: where the weights start, the learning rate, the row and the seed."""

    start: str
    rate: str
    row: str
    seed: int
    variant: str = ""  # of VARIANTS

    @property
    def group(self) -> str:
        """The settings that the rows of one ``hfgd ablate`` share."""
        return "-".join(filter(None, (self.start, f"lr{self.rate}", self.variant)))

    @property
    def folder(self) -> Path:
        return Path(self.group) / self.row.replace("/", "-") / f"seed{self.seed}"

    @property
    def record(self) -> Path:
        return RECORDS / self.folder

    @property
    def done(self) -> bool:
        return (self.record / "report.json").is_file()

    def report(self, name: str = "report") -> dict:
        return json.loads((self.record / f"{name}.json").read_text())


# the baseline gains 3.6 points by twice the schedule, so the paper's Table 3 is run on that one too
LONG = "it1840"
LONG_ROWS = tuple(row for row in ROW_NAMES if row.startswith(("table3/", "section5.2/")))
EXTRA = (
    *(Job("pretrained", "1e-3", row, seed, LONG) for seed in SEEDS for row in LONG_ROWS),
    *(
        Job("pretrained", "1e-3", row, seed, "os16")
        for seed in SEEDS[:2]
        for row in (BASELINE, "table3/guidance")
    ),
    Job("pretrained", "1e-3", "table3/full", SEEDS[0], "os16"),
    Job("pretrained", "1e-3", "table3/guidance", SEEDS[0], "open_features"),
    Job("pretrained", "1e-3", "table3/guidance", SEEDS[0], "open_tokens"),
    Job("pretrained", "1e-3", "section5.1/fcn", SEEDS[0]),
    Job("pretrained", "1e-3", "section5.2/no_stop_gradient", SEEDS[0], "guide0.4"),
    Job("pretrained", "1e-3", BASELINE, SEEDS[0], "crop161"),
)


def best_rate(start: str, row: str) -> str:
    """The rate of the row's best run with the first seed, of those recorded so far."""
    rates = BASELINE_RATES[start]
    tried = [job for rate in rates if (job := Job(start, rate, row, SEEDS[0])).done]
    return max(tried, key=lambda job: job.report()["mIoU"]).rate if tried else "1e-3"


def plan() -> list[Job]:
    """Every run, the most telling first: the baseline's rate and all rows at it, from both starts;
    the dearest row; the same rates for every row, and the rest of the seeds where a row did best at
    another rate; the variants."""
    jobs = []
    rows = [row for row in ROW_NAMES if row != DEAREST]
    for start in STARTS:
        jobs += [Job(start, rate, BASELINE, SEEDS[0]) for rate in BASELINE_RATES[start]]
        rate = best_rate(start, BASELINE)
        jobs += [Job(start, rate, row, seed) for seed in SEEDS for row in rows]
    for start in STARTS:
        jobs += [Job(start, best_rate(start, BASELINE), DEAREST, seed) for seed in SEEDS]
    for start in STARTS:
        jobs += [Job(start, rate, row, SEEDS[0]) for row in ROW_NAMES for rate in RATES[start]]
        for row in ROW_NAMES:
            if all(Job(start, rate, row, SEEDS[0]).done for rate in RATES[start]):
                jobs += [Job(start, best_rate(start, row), row, seed) for seed in SEEDS]
    return list(dict.fromkeys([*jobs, *EXTRA]))


def settings(job: Job, weights: str) -> dict[str, str]:
    return SETTINGS | {
        "model.backbone.pretrained": weights if job.start == "pretrained" else "false",
        "optim.lr": job.rate,
        "train.seed": str(job.seed),
        **(VARIANTS[job.variant] if job.variant else {}),
    }


RUNNING: set[subprocess.Popen] = set()


def stop(number: int, frame: FrameType | None) -> None:
    """On Ctrl-C and SIGTERM: what runs saves itself, and nothing is started after it."""
    for process in list(RUNNING):
        process.terminate()
    print("stopped; the same command goes on", file=sys.stderr)
    raise SystemExit(128 + number)


def run_job(job: Job, data: str, weights: str, runs: Path) -> None:
    """Train, score the guiding branch, keep the record."""
    out = runs / job.folder
    log = runs / "logs" / f"{str(job.folder).replace('/', '_')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    commands = []
    if not (out / "report.json").is_file():
        sets = [f"--set={key}={value}" for key, value in settings(job, weights).items()]
        resume = ["--resume"] if (out / "recipe.yaml").is_file() else []
        commands.append(["train", job.row, "--data", data, *sets, *resume, "--out", str(out)])
    if ROWS[job.row].recipe().model.guidance.share_tokens:
        how = [
            "--branch",
            "guide",
            "--workers",
            "0",
            "--boundary",
            "0",
            "--out",
            str(out / "guide"),
        ]
        commands.append(["eval", str(out), "--data", data, *how])
    environment = os.environ | ALLOCATOR | {"OMP_NUM_THREADS": "1"}
    with log.open("a") as file:
        for command in commands:
            full = [sys.executable, "-m", "hfgd", *command]
            with subprocess.Popen(full, stdout=file, stderr=file, env=environment) as process:
                RUNNING.add(process)
            RUNNING.discard(process)
            if process.returncode:
                *_, reason = log.read_text(encoding="utf-8").splitlines() or ["no word of why"]
                raise SystemExit(f"{job.folder} failed: {reason} (the whole log: {log})")
    job.record.mkdir(parents=True, exist_ok=True)
    files = ["recipe.yaml", "logs/train.csv", "logs/val.csv", "guide/report.json", "report.json"]
    for name in (out / name for name in files):  # report.json last: it says that all is there
        if name.is_file():
            kept = "guide.json" if name.parent.name == "guide" else name.name
            shutil.copyfile(name, job.record / kept)
    (out / "state.ckpt").unlink(missing_ok=True)


def run(data: str, weights: str, runs: Path, workers: int) -> None:
    """Train what is not recorded; a worker that gets free takes the plan's next run."""
    taken: set[Job] = set()
    began = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        futures: dict[Future[None], tuple[Job, float]] = {}
        while True:
            left = [job for job in plan() if not job.done and job not in taken]
            for job in left[: workers - len(futures)]:
                taken.add(job)
                print(f"{time.strftime('%H:%M')} {job.folder} ({len(left)} to go)", flush=True)
                futures[pool.submit(run_job, job, data, weights, runs)] = job, time.monotonic()
            if not futures:
                break
            for future in wait(futures, return_when=FIRST_COMPLETED).done:
                job, started = futures.pop(future)
                future.result()
                seconds = format_duration(time.monotonic() - started)
                print(
                    f"{job.folder}: mIoU {100 * job.report()['mIoU']:.2f} in {seconds}", flush=True
                )
    print(f"all runs are recorded, after {format_duration(time.monotonic() - began)}")


@dataclass(frozen=True)
class Summary:
    """The recorded seeds of one row."""

    row: str
    jobs: list[Job]

    @property
    def miou(self) -> dict[int, float]:
        return {job.seed: 100 * job.report()["mIoU"] for job in self.jobs}

    @property
    def guide(self) -> list[float]:
        jobs = [job for job in self.jobs if (job.record / "guide.json").is_file()]
        return [100 * job.report("guide")["mIoU"] for job in jobs]

    def classes(self, seeds: Iterable[int]) -> dict[str, float]:
        """Mean IoU of each class over these seeds."""
        found = defaultdict(list)
        for job in (job for job in self.jobs if job.seed in seeds):
            for entry in job.report()["classes"]:
                found[entry["name"]].append(100 * entry["IoU"])
        return {name: statistics.fmean(values) for name, values in found.items()}

    def changes(self, base: "Summary") -> dict[str, float]:
        """Differences of each class to another row, over the seeds that both have."""
        seeds = self.miou.keys() & base.miou.keys()
        mine, other = self.classes(seeds), base.classes(seeds)
        return {name: mine[name] - other[name] for name in mine}

    def differences(self, base: "Summary") -> str:
        """Differences in mIoU to another row, over the seeds that both have: mean and spread."""
        mine, other = self.miou, base.miou
        deltas = [mine[seed] - other[seed] for seed in mine if seed in other]
        return spread(deltas, "+") if deltas else ""

    def curve(self) -> tuple[list[int], list[float]]:
        """Mean validation mIoU over the iterations."""
        found = defaultdict(list)
        for job in self.jobs:
            with (job.record / "val.csv").open(newline="") as file:
                for line in csv.DictReader(file):
                    found[int(line["iteration"])].append(100 * float(line["mIoU"]))
        return list(found), [statistics.fmean(values) for values in found.values()]


def summaries(start: str) -> list[Summary]:
    """Rows of one start, each at its best rate; of those that have tried the baseline's best one."""
    found = []
    for row in ROW_NAMES:
        if not Job(start, best_rate(start, BASELINE), row, SEEDS[0]).done:
            continue
        jobs = [Job(start, best_rate(start, row), row, seed) for seed in SEEDS]
        found.append(Summary(row, [job for job in jobs if job.done]))
    return found


def long_summaries() -> list[Summary]:
    """The paper's Table 3 on twice the schedule, from ImageNet weights."""
    found = []
    for row in LONG_ROWS:
        jobs = [job for job in EXTRA if (job.row, job.variant) == (row, LONG)]
        found.append(Summary(row, [job for job in jobs if job.done]))
    return [each for each in found if each.jobs]


def spread(values: list[float], sign: str = "") -> str:
    """'68.10 ± 0.42' of several values, '68.10' of one."""
    mean = f"{statistics.fmean(values):{sign}.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


def main_table(rows: list[Summary]) -> str:
    """Scores, differences to the baseline seed by seed, and the paper's, which has ImageNet weights."""
    pretrained = rows[0].jobs[0].start == STARTS[0]
    lines = [
        "| row | rate | seeds | mIoU | every seed | Δ to none, by seed | paper's Δ | guide mIoU |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    paper = ROWS[BASELINE].paper["ss"]
    for each in rows:
        miou = each.miou
        first = each.row == BASELINE
        cells = [
            ROW_NAMES[each.row],
            each.jobs[0].rate,
            str(len(miou)),
            spread(list(miou.values())),
            " ".join(f"{value:.1f}" for value in miou.values()),
            "" if first else each.differences(rows[0]),
            "" if first or not pretrained else f"{ROWS[each.row].paper['ss'] - paper:+.2f}",
            spread(each.guide) if each.guide else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rate_table(start: str) -> str:
    """The first seed at every rate, and the mean of all seeds where they were run."""
    rates = BASELINE_RATES[start]
    lines = [f"| row | {' | '.join(rates)} |", "| --- |" + " ---: |" * len(rates)]
    for row, name in ROW_NAMES.items():
        cells = []
        for rate in rates:
            jobs = [Job(start, rate, row, seed) for seed in SEEDS]
            miou = Summary(row, [job for job in jobs if job.done]).miou
            mean = f" ({statistics.fmean(miou.values()):.2f})" if len(miou) == len(SEEDS) else ""
            cells.append(f"{miou[SEEDS[0]]:.2f}{mean}" if SEEDS[0] in miou else "–")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def class_table(rows: list[Summary]) -> str:
    base = rows[0].classes(SEEDS)
    changes = [each.changes(rows[0]) for each in rows[1:]]
    names = [ROW_NAMES[each.row] for each in rows[1:]]
    lines = [f"| class | none | {' | '.join(names)} |", "| --- |" + " ---: |" * (len(names) + 1)]
    for label, value in base.items():
        cells = [f"{change[label]:+.1f}" for change in changes]
        lines.append(f"| {label} | {value:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def guide_class_table(rows: list[Summary]) -> str:
    """What the tokens reach on the coarse feature that trains them, and on the fine one."""
    lines = ["| class | guide | fine |", "| --- | ---: | ---: |"]
    guided = next((each for each in rows if each.row == "table3/full"), None)
    if guided is None:
        return ""
    guide = defaultdict(list)
    for job in guided.jobs:
        for entry in job.report("guide")["classes"]:
            guide[entry["name"]].append(100 * entry["IoU"])
    for label, value in guided.classes(SEEDS).items():
        lines.append(f"| {label} | {statistics.fmean(guide[label]):.1f} | {value:.1f} |")
    return "\n".join(lines)


def extra_table() -> str:
    """The variants, below the rows that they vary; the classes that a coarse guide cannot see."""
    small = ("pole", "sign", "fence", "pedestrian", "bicyclist")
    lines = [
        "| row | variant | seeds | mIoU | Δ to the row, by seed | Δ to none, by seed | guide mIoU "
        f"| {' | '.join(small)} |",
        "| --- | --- |" + " ---: |" * (5 + len(small)),
    ]
    found = {}
    for row in dict.fromkeys(job.row for job in EXTRA):
        for variant in ("", *VARIANTS):
            jobs = [Job("pretrained", "1e-3", row, seed, variant) for seed in SEEDS]
            if done := [job for job in jobs if job.done]:
                found[row, variant] = Summary(row, done)
    for (row, variant), each in found.items():
        base = found.get((BASELINE, variant))
        cells = [
            ROW_NAMES.get(row, "FCN alone"),
            VARIANT_NAMES.get(variant, ""),
            str(len(each.jobs)),
            spread(list(each.miou.values())),
            each.differences(found[row, ""]) if variant else "",
            each.differences(base) if base and row != BASELINE else "",
            spread(each.guide) if each.guide else "",
            *(f"{each.classes(SEEDS)[name]:.1f}" for name in small),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, list[Summary]]) -> None:
    """Every seed and the curves, one column for each of the main tables; the classes of those
    with ImageNet weights."""
    titles = {
        STARTS[0]: "ImageNet weights",
        LONG: "ImageNet weights, 1840 iterations",
        STARTS[1]: "random weights",
    }
    figure, axes = plt.subplots(2, len(found), figsize=(5.2 * len(found), 7.5), squeeze=False)
    for column, (start, rows) in enumerate(found.items()):
        dots, lines = axes[0][column], axes[1][column]
        for place, each in enumerate(rows):
            values = list(each.miou.values())
            colour = f"C{list(ROW_NAMES).index(each.row)}"
            dots.plot(values, [place] * len(values), "o", color=colour, alpha=0.7)
            dots.plot([statistics.fmean(values)], [place], "|", color="black", markersize=18)
            lines.plot(*each.curve(), "o-", color=colour, markersize=3)
        dots.set_yticks(range(len(rows)), [ROW_NAMES[each.row] for each in rows])
        dots.invert_yaxis()
        dots.set_title(f"{titles[start]}: every seed, mean", fontsize=10)
        dots.set_xlabel("mIoU in percent (the axis does not start at 0)")
        lines.set_xlabel("iteration")
        lines.set_ylabel("validation mIoU, mean over seeds")
        lines.set_title("while training; colours as above", fontsize=10)
        for axis in (dots, lines):
            axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(PICTURES / "camvid-guidance.png", dpi=110)
    shown = {start: rows for start, rows in found.items() if start != STARTS[1]}
    figure, axes = plt.subplots(len(shown), 1, figsize=(9, 3.6 * len(shown)), squeeze=False)
    for axis, (start, rows) in zip(axes[:, 0], shown.items(), strict=True):
        bars = [each for each in rows[1:] if each.row in LONG_ROWS]
        base = rows[0].classes(SEEDS)
        width = 0.8 / max(1, len(bars))
        for number, each in enumerate(bars):
            places = [i + width * (number - (len(bars) - 1) / 2) for i in range(len(base))]
            changes = list(each.changes(rows[0]).values())
            colour = f"C{list(ROW_NAMES).index(each.row)}"
            axis.bar(places, changes, width, color=colour, label=ROW_NAMES[each.row])
        axis.set_xticks(range(len(base)), base, rotation=30, ha="right")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_ylabel("IoU against none, points")
        axis.set_title(titles[start], fontsize=10)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3, axis="y")
    figure.tight_layout()
    figure.savefig(PICTURES / "camvid-guidance-classes.png", dpi=110)


def page() -> None:
    found = {start: rows for start in STARTS if (rows := summaries(start))}
    tables = {"variants": extra_table()} | {f"{start} rates": rate_table(start) for start in found}
    found |= {LONG: rows} if (rows := long_summaries()) else {}
    for start, rows in found.items():
        tables |= {start: main_table(rows), f"{start} classes": class_table(rows)}
        tables[f"{start} guide classes"] = guide_class_table(rows)
    text = re.sub(
        r"(<!-- table: ([^>]*) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{tables[match[2]]}\n{match[3]}",
        PAGE.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    PAGE.write_text(text, encoding="utf-8")
    draw({start: found[start] for start in (STARTS[0], LONG, STARTS[1]) if start in found})
    left = [job for job in plan() if not job.done]
    print(f"written: {PAGE}; {len(left)} runs of the plan are not recorded")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("run")
    train.add_argument("--data", required=True, help="as of 'hfgd train'")
    train.add_argument("--weights", required=True, help="mobilenetv2_100, safetensors")
    train.add_argument("--runs", type=Path, default=Path("runs/camvid-guidance"))
    train.add_argument("--workers", type=int, default=2)
    commands.add_parser("page")
    arguments = parser.parse_args()
    if arguments.command == "page":
        page()
    elif not Path(arguments.weights).is_file():
        parser.error(f"there is no weights file '{arguments.weights}'; give its path as --weights")
    else:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        run(arguments.data, arguments.weights, arguments.runs, arguments.workers)


if __name__ == "__main__":
    main()
