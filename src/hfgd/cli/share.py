"""``hfgd card`` and ``hfgd push``."""

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(help="A run folder (its last model), or a model folder.")]
Data = Annotated[
    str | None, typer.Option(help="The data's id on the hub, e.g. user/data, where it has one.")
]
Licence = Annotated[
    str | None,
    typer.Option("--license", help="Of these weights, as the hub writes it, e.g. cc-by-4.0."),
]


def card(run: Run, dataset: Data = None, licence: Licence = None) -> None:
    """Print the model card that 'hfgd push' would send."""
    from hfgd.card import CardInfo
    from hfgd.card import card as written

    print(written(run, CardInfo(dataset=dataset, licence=licence)), end="")


def push(
    run: Run,
    name: Annotated[str, typer.Argument(help="The repository: user/name; made if it is new.")],
    private: Annotated[
        bool, typer.Option("--private", help="Only for you and those whom you let in.")
    ] = False,
    dataset: Data = None,
    licence: Licence = None,
) -> None:
    """Share a model on the Hugging Face hub.

    Its two files, a model card and the panels.
    """
    from hfgd.card import PANELS, CardInfo
    from hfgd.card import card as written
    from hfgd.checkpoint import CONFIG, WEIGHTS, model_folder, read_tensors
    from hfgd.hub import push as send

    folder = model_folder(run)
    read_tensors(folder / WEIGHTS)  # a damaged file is not shared
    files: dict[str, Path | bytes] = {file: folder / file for file in (WEIGHTS, CONFIG)}
    files["README.md"] = written(run, CardInfo(name, dataset, licence)).encode()
    if (Path(run) / PANELS).is_file():
        files[PANELS] = Path(run) / PANELS
    address = send(files, name, private)
    print(f"pushed: {', '.join(files)}")
    print(f"use:    hfgd predict hf://{name} IMAGE_OR_FOLDER --out predictions")
    print(f"this commit, whatever comes later: {address}")
