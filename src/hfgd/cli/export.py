"""``hfgd export``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hfgd.cli.options import Code
from hfgd.errors import HfgdError

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml", "html": ".html"}


def export(
    model: Annotated[
        str, typer.Argument(help="A run folder (its last model), a model folder, hf://user/name.")
    ],
    format: Annotated[
        Literal["onnx", "pt2", "openvino", "html"],
        typer.Option(help="For onnxruntime, AOTInductor, OpenVINO (two files), a browser."),
    ] = "onnx",
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="HEIGHT WIDTH: one image of this size only.")
    ] = None,
    dynamic: Annotated[
        bool,
        typer.Option("--dynamic", help="Any height, width and batch: so it is without --size."),
    ] = False,
    logits: Annotated[bool, typer.Option("--logits", help="Give the logits out too.")] = False,
    input: Annotated[
        Literal["uint8", "float"], typer.Option(help="RGB of 0..255, or of [0, 1].")
    ] = "uint8",
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit weights and activations; needs --calibrate.")
    ] = False,
    calibrate: Annotated[
        str | None, typer.Option(help="Data whose training images the 8-bit scales are fitted to.")
    ] = None,
    calibrate_split: Annotated[str, typer.Option(help="The split of it.")] = "train",
    data_yaml: Annotated[
        Path | None, typer.Option(help="A data.yaml that does not lie in the data folder.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="How many of its images.")] = 128,
    out: Annotated[Path | None, typer.Option(help="The file; MODEL/model.onnx by default.")] = None,
    code: Code = None,
) -> None:
    """Write a model as a file that runs elsewhere.

    It is left behind once it was seen to give the same labels.
    """
    from hfgd.checkpoint import load_model
    from hfgd.export.int8 import CalibrationImages
    from hfgd.export.write import export_model
    from hfgd.hub import folder_for

    if dynamic and size is not None:
        raise HfgdError("--size fixes what --dynamic leaves open; give one of them.")
    if int8 != (calibrate is not None):
        raise HfgdError("--int8 and --calibrate DATA belong together; give both or none.")
    name = "model-int8" if int8 else "model"
    file = out or folder_for(model) / f"{name}{SUFFIXES[format]}"
    if file.suffix != SUFFIXES[format]:
        raise HfgdError(
            f"'{file}' should end in {SUFFIXES[format]} for --format {format}, by which hfgd knows it."
        )
    network = load_model(model, code=code)
    scored = _scored_split(model)
    calibration = (
        CalibrationImages.of(calibrate, images, calibrate_split, scored, data_yaml)
        if calibrate
        else None
    )
    for checked in export_model(
        network, file, size=size, logits=logits, input=input, int8=calibration
    ):
        print(checked)
    parts = [file, file.with_suffix(".bin")] if format == "openvino" else [file]
    total = sum(part.stat().st_size for part in parts)
    print(f"written: {' and '.join(map(str, parts))}  ({total / 1e6:.1f} MB)")


def _scored_split(model: str) -> str:
    """The split that the model's run was scored on; 'val' where nobody says."""
    from hfgd.recipes.spec import read_recipe_yaml

    recipe = Path(model) / "recipe.yaml"
    content = read_recipe_yaml(recipe) if recipe.is_file() else {}
    return str(content.get("data", {}).get("val_split", "val"))
