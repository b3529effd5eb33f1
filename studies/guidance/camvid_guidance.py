"""Does guidance help? Tables and plots of studies/guidance/README.md, from the records.

    python studies/guidance/camvid_guidance.py

How to run a row again stands at the end of the page.
"""

from pathlib import Path

from records import Run, read
from study_page import (
    BASELINE,
    NAMES,
    TABLE3,
    Summary,
    class_table,
    draw_classes,
    draw_seeds,
    guide_class_table,
    main_table,
    put,
    rate_table,
    select,
    spread,
    summaries,
    table,
)

STUDY = "camvid-guidance"
PAGE = Path(__file__).parent / "README.md"
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
STARTS = {"pretrained": "mobilenetv2_100_imagenet.safetensors", "random": "false"}
STANDARD = {"iterations": "920", "crop": "[225,289]", "backbone_lr": "1.0", "changes": ""}
# what explains the result: a schedule twice as long, a finer guide, tokens or backbone that the fine
# loss reaches, a guide that counts less, smaller crops
LONG = {"iterations": "1840"}
VARIANTS = {
    "": {},
    "stride-16 pyramid": {"changes": "model.backbone.output_stride=16"},
    "the fine loss reaches the tokens": {"changes": "model.guidance.stop_tokens=false"},
    "the fine loss reaches the backbone": {"changes": "model.guidance.stop_features=false"},
    "the guide's loss × 0.4": {"changes": "loss.guide=0.4"},
    "1840 iterations": LONG,
    "crops of 161×225": {"crop": "[161,225]"},
}
FP32 = "train.precision=32-true"  # what the first study's runs were not, and the later ones are
SMALL = ("pole", "sign", "fence", "pedestrian", "bicyclist")  # a coarse guide cannot see them
TITLES = {
    "pretrained": "ImageNet weights",
    "it1840": "ImageNet weights, 1840 iterations",
    "random": "random weights",
}


def main_rows(runs: list[Run]) -> dict[str, list[Summary]]:
    """The rows of the three main tables."""
    standard = {start: select(runs, start=cell, **STANDARD) for start, cell in STARTS.items()}
    # the baseline gains 3.6 points by twice the schedule, so Table 3 is run on that one too
    long = select(runs, start=STARTS["pretrained"], **STANDARD | LONG)
    return {
        "pretrained": summaries(standard["pretrained"]),
        "it1840": summaries(long, TABLE3),
        "random": summaries(standard["random"]),
    }


def variant_table(runs: list[Run]) -> str:
    """The variants, below the rows that they vary."""
    runs = select(runs, start=STARTS["pretrained"], rate="0.001")
    found = {
        (row, name): Summary(row, chosen)
        for row in (*TABLE3, "section5.1/fcn")
        for name, changed in VARIANTS.items()
        if (chosen := select(runs, row=row, **STANDARD | changed))
    }
    lines = []
    for (row, name), each in found.items():
        base = found.get((BASELINE, name))
        cells = [
            NAMES[row],
            name,
            str(len(each.runs)),
            spread(list(each.miou.values())),
            each.differences(found[row, ""]) if name else "",
            each.differences(base) if base and row != BASELINE else "",
            spread(each.guide) if each.guide else "",
        ]
        lines.append([*cells, *(f"{each.classes()[label]:.1f}" for label in SMALL)])
    head = "row|variant|seeds|mIoU|Δ to the row, by seed|Δ to none, by seed|guide mIoU"
    return table([*head.split("|"), *SMALL], "ll" + "r" * (5 + len(SMALL)), lines)


def tables(runs: list[Run]) -> dict[str, str]:
    """Every table of the page, by the name of its mark."""
    found = {"variants": variant_table(runs)}
    for start, cell in STARTS.items():
        found[f"{start} rates"] = rate_table(select(runs, start=cell, **STANDARD))
    for name, factor in (("fp32", "1.0"), ("factor", "0.1")):  # of the backbone's rate
        changed = STANDARD | {"backbone_lr": factor, "changes": FP32}
        if chosen := summaries(select(runs, start=STARTS["pretrained"], **changed)):
            found[name] = main_table(chosen)
    main = main_rows(runs)
    for name, rows in main.items():
        guided = next(each for each in rows if each.row == "table3/full")
        # the paper has no such rows from random weights
        found[name] = main_table(rows, paper=name != "random")
        found[f"{name} classes"] = class_table(rows)
        found[f"{name} guide classes"] = guide_class_table(guided)
    return found


def main() -> None:
    runs = read(STUDY)
    PAGE.write_text(put(PAGE, tables(runs)), encoding="utf-8")
    found = {TITLES[name]: rows for name, rows in main_rows(runs).items()}
    draw_seeds(found, PICTURES / "camvid-guidance.png")
    pretrained = {title: rows for title, rows in found.items() if title != TITLES["random"]}
    draw_classes(pretrained, PICTURES / "camvid-guidance-classes.png")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
