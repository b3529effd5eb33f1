"""Which rate for the named recipes for small machines? Its table of studies/guidance/README.md.

    python studies/guidance/small_recipes.py

From the records, which ``studies/guidance/guidance_runs.py run recipes`` makes.
"""

from camvid_guidance import PAGE
from guidance_runs import STUDIES
from hfgd.errors import HfgdError
from records import Run, read
from study_page import Summary, power, put, select, spread, table

STUDY = STUDIES["recipes"].name


def tables(runs: list[Run]) -> dict[str, str]:
    """The page's table, by its mark: each recipe at each rate, against its lowest one."""
    rates = sorted({run["rate"] for run in runs}, key=float)
    lines = []
    for row in dict.fromkeys(run["row"] for run in sorted(runs, key=lambda run: run["row"])):
        at = {rate: Summary(row, select(runs, row=row, rate=rate)) for rate in rates}
        for rate, each in at.items():
            if each.runs:
                lines.append(
                    [
                        f"`{row}`",
                        power(rate),
                        str(len(each.runs)),
                        spread(list(each.miou.values())),
                        " ".join(f"{value:.1f}" for value in each.miou.values()),
                        each.differences(at[rates[0]]) if rate != rates[0] else "",
                        spread(each.guide) if each.guide else "",
                    ]
                )
    head = f"recipe|rate|seeds|mIoU|every seed|Δ to {power(rates[0])}, by seed|guide mIoU"
    return {"recipes": table(head.split("|"), "lrrrlrr", lines)}


def main() -> None:
    try:
        runs = read(STUDY)
    except HfgdError as error:  # none yet
        raise SystemExit(f"{error}") from None
    PAGE.write_text(put(PAGE, tables(runs)), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
