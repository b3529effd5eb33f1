"""Does guidance help where its premise holds? NYUv2's tables of studies/guidance/README.md.

    python studies/guidance/nyuv2_guidance.py

From the records, which ``guidance_runs.py`` makes. Runs that are left are not in the tables.
"""

from collections.abc import Iterable

from camvid_guidance import PAGE, PICTURES
from guidance_runs import STUDIES
from records import Run, read
from study_page import (
    NAMES,
    ROW_NAMES,
    Summary,
    class_table,
    draw_seeds,
    main_table,
    power,
    put,
    summaries,
    table,
)

STUDY = STUDIES["nyuv2"].name
GROUPS = {  # of the plan: their rows are compared with one another
    "main": "the backbone at the heads' rate",
    "small": "the backbone at a tenth of it",
    "twice": "twice the schedule",
    "random": "random weights",
}


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
    for name, rows in compared(runs, NAMES).items():
        found[f"nyuv2 {name}"] = main_table(rows, paper=name != "random")
        guided = next((each for each in rows if each.row == "table3/full"), None)
        found[f"nyuv2 {name} classes"] = class_table(rows, guided)
    return found


def compared(runs: list[Run], rows: Iterable[str]) -> dict[str, list[Summary]]:
    """The rows of each group, of those that have any."""
    found = {name: summaries(group(runs, f"{name}/"), rows) for name in GROUPS}
    return {name: rows for name, rows in found.items() if rows}


def main() -> None:
    runs = read(STUDY)
    PAGE.write_text(put(PAGE, tables(runs)), encoding="utf-8")
    if found := compared(runs, ROW_NAMES):
        titles = {GROUPS[name]: rows for name, rows in found.items()}
        draw_seeds(titles, PICTURES / "nyuv2-guidance.png")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
