"""Does guidance help where its premise holds? NYUv2's tables of docs/results/guidance.md.

    python benchmarks/nyuv2_guidance.py

From the records, which ``benchmarks/guidance_runs.py`` makes. Runs that are left are not in the tables.
"""

from camvid_guidance import PAGE
from guidance_runs import FACTOR, RATE, SCHEDULE, SMALL, STUDY
from records import Run, read
from study_page import NAMES, main_table, power, put, select, summaries, table

STANDARD = {
    "rate": f"{RATE}",
    "backbone_lr": f"{FACTOR}",
    "iterations": f"{SCHEDULE}",
    "changes": "",
}


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
        if run["run"].startswith("rates-")
    ]
    head = "row|rate|backbone's factor|mIoU|weights moved"
    return table(head.split("|"), "lrrrr", lines)


def tables(runs: list[Run]) -> dict[str, str]:
    """Every table of the page that has runs, by the name of its mark."""
    found = {"nyuv2 rates": rates(runs)}
    parts = {
        "nyuv2": STANDARD,
        "nyuv2 small": STANDARD | {"backbone_lr": f"{SMALL}"},
        "nyuv2 twice": STANDARD | {"iterations": f"{2 * SCHEDULE}"},
        "nyuv2 random": STANDARD | {"start": "false", "backbone_lr": "1.0"},
    }
    for name, cells in parts.items():
        chosen = select(runs, **cells)
        if name != "nyuv2 random":
            chosen = [run for run in chosen if run["start"] != "false"]
        if rows := summaries(chosen, NAMES):
            found[name] = main_table(rows, paper=name != "nyuv2 random")
    return found


def main() -> None:
    PAGE.write_text(put(PAGE, tables(read(STUDY))), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
