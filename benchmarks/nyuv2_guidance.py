"""Does guidance help where its premise holds? NYUv2's tables of docs/results/guidance.md.

    python benchmarks/nyuv2_guidance.py

From the records, which ``benchmarks/guidance_runs.py`` makes. Runs that are left are not in the tables.
"""

from camvid_guidance import PAGE
from guidance_runs import STUDIES
from records import Run, read
from study_page import NAMES, main_table, power, put, summaries, table

STUDY = STUDIES["nyuv2"].name
GROUPS = (
    "main",
    "small",
    "twice",
    "random",
)  # of the plan: their rows are compared with one another


def group(runs: list[Run], name: str) -> list[Run]:
    """The runs of a part of the plan, by seed."""
    return sorted((run for run in runs if run["run"].startswith(name)), key=lambda run: run.seed)


def rates(runs: list[Run]) -> str:
    """Every rate and factor on half the schedule: the score, and how far the backbone moved."""
    lines = [
        [
            NAMES[run["row"]],
            power(run["rate"]),
            f"{float(run['backbone_lr']):g}",
            f"{run.miou:.2f}",
            f"{100 * float(run['moved']):.1f} %",
        ]
        for run in sorted(runs, key=lambda run: (run["row"] != "table3/none", -run.miou))
    ]
    head = "row|rate|backbone's factor|mIoU|weights moved"
    return table(head.split("|"), "lrrrr", lines)


def tables(runs: list[Run]) -> dict[str, str]:
    """Every table that has runs, by the name of its mark on the page."""
    found = {"nyuv2 rates": rates(group(runs, "rates-"))}
    for name in GROUPS:
        if rows := summaries(group(runs, f"{name}/"), NAMES):
            found[f"nyuv2 {name}"] = main_table(rows, paper=name != "random")
    return found


def main() -> None:
    PAGE.write_text(put(PAGE, tables(read(STUDY))), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
