"""``hfgd figure``: the paper's figures from any runs and data."""

from pathlib import Path
from typing import Annotated

import typer

from hfgd.cli.options import Code
from hfgd.errors import HfgdError

PANELS = ("3", "7", "8", "9")


def figure(
    name: Annotated[str, typer.Argument(help="1, 3, 4, 6, 7, 8, 9 of the paper, or flow.")],
    runs: Annotated[
        list[str],
        typer.Argument(help="Run or model folders, the baseline first; a recipe for flow."),
    ],
    data: Annotated[
        str | None, typer.Option(help="A data folder; the first run's own data by default.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where pictures and tables go.")] = Path("figures"),
    split: Annotated[str | None, typer.Option(help="The split; the first run's val split.")] = None,
    data_yaml: Annotated[
        Path | None, typer.Option(help="A data.yaml that does not lie in the data folder.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only that many images, spread evenly.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="4: these, e.g. road,pavement; else the most confused ones.")
    ] = None,
    most: Annotated[int, typer.Option(min=2, help="4: how many of the most confused.")] = 8,
    pixels: Annotated[int, typer.Option(min=2, help="4: at most so many of a class.")] = 200,
    samples: Annotated[int, typer.Option(min=1, help="4: samples behind the intervals.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="4: of the first sample, and of UMAP.")] = 0,
    images: Annotated[
        str | None, typer.Option(help="3, 7-9: these, comma between; else where models differ.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="3, 7-9: how many images.")] = 4,
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="flow: HEIGHT WIDTH; the recipe's crop.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; the GPU where there is one.")
    ] = None,
    code: Code = None,
) -> None:
    """The paper's figures from any runs and data.

    Each as PNG and SVG, with the numbers behind it as CSV.
    """
    from hfgd.figures import FigureRequest, draw
    from hfgd.inference.labeller import InferenceConfig

    if classes is not None and name != "4":
        raise HfgdError(f"--classes is for figure 4; figure {name} takes none, leave it out.")
    if images is not None and name not in PANELS:
        raise HfgdError(f"--images is for figures 3, 7, 8 and 9; figure {name} takes none.")
    wanted = FigureRequest(
        name, runs, out, data, split, data_yaml, limit, InferenceConfig(device=device, code=code),
        _names("classes", classes), most, pixels, samples, seed, _names("images", images), count,
        size,
    )  # fmt: skip
    print(draw(wanted))
    print(f"written: {out}/{wanted.stem}.png, {wanted.stem}.svg, {wanted.stem}*.csv")


def _names(option: str, text: str | None) -> list[str]:
    names = [name.strip() for name in (text or "").split(",")]
    if text is not None and not all(names):
        raise HfgdError(f"--{option} takes names with a comma between, not '{text}'.")
    return names if text is not None else []
