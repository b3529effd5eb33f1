"""Models on disk: ``model.safetensors`` + ``config.json``. Loading one never unpickles."""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.files import write_text, write_whole
from hfgd.model.build import build
from hfgd.model.segmenter import Segmenter
from hfgd.recipes.spec import Recipe, check_recipe

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = 1


def save_model(
    model: Segmenter, recipe: Recipe, folder: Path, facts: dict[str, Any] | None = None
) -> Path:
    """Write a model and everything needed to use it; ``facts`` (iteration, scores) go along.

    Both files replace older ones whole: a kill leaves the old file or the new one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    write_whole(folder / WEIGHTS, lambda part: save_file(weights, part))
    backbone = model.backbone
    config = {
        "format": FORMAT,
        "recipe": recipe.model_dump(mode="json"),
        "classes": list(model.classes.names),
        "palette": [list(colour) for colour in model.classes.palette],
        "mean": backbone.mean.flatten().tolist(),
        "std": backbone.std.flatten().tolist(),
        **(facts or {}),
    }
    write_text(folder / CONFIG, json.dumps(config, indent=1) + "\n")
    return folder


def load_model(path: str | Path, device: str = "cpu") -> Segmenter:
    """The model of a folder that ``save_model`` wrote, ready to predict.

    ``path``: such a folder, or a run folder, whose last model it then is.
    Raises HfgdError for anything else, and for a truncated or foreign file.
    """
    folder = model_folder(path)
    config = _read_config(folder / CONFIG)
    recipe = _recipe(config, folder / CONFIG)
    classes = ClassSet.of(config["classes"], [tuple(c) for c in config["palette"]])
    spec = recipe.model.with_backbone(
        pretrained=False,  # the weights lie beside; nothing is fetched
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    model = build(spec, classes)
    _load_weights(model, folder / WEIGHTS)
    return model.eval().to(device)


def model_folder(path: str | Path) -> Path:
    """The folder with the two files: ``path`` itself, or ``last`` in a run folder."""
    path = Path(path)
    for folder in (path, path / "last"):
        if (folder / CONFIG).is_file():
            return folder
    if not path.exists():
        raise HfgdError(f"there is no model '{path}'; give a run folder or one with {WEIGHTS}.")
    raise HfgdError(
        f"'{path}' holds no model; give a run folder, or a folder with {WEIGHTS} and {CONFIG}."
    )


def read_recipe(path: str | Path) -> Recipe:
    """The recipe that a saved model was trained with."""
    config = model_folder(path) / CONFIG
    return _recipe(_read_config(config), config)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise HfgdError(f"'{path}' is no valid JSON; the model folder is damaged.") from error
    needed = {"format", "recipe", "classes", "palette", "mean", "std"}
    if not isinstance(config, dict) or not needed <= config.keys():
        raise HfgdError(f"'{path}' is not the configuration of an hfgd model.")
    if config["format"] > FORMAT:
        raise HfgdError(f"'{path}' was written by a newer hfgd; update the package to load it.")
    return config


def _recipe(config: dict[str, Any], path: Path) -> Recipe:
    try:
        return check_recipe(config["recipe"], str(path))
    except (ValidationError, TypeError) as error:
        raise HfgdError(f"'{path}' holds no usable recipe.") from error


def _load_weights(model: Segmenter, path: Path) -> None:
    weights = read_tensors(path)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    missing, foreign = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if missing or foreign:
        odd = sorted(missing)[:1] or sorted(foreign)[:1]
        kind = "lacks" if missing else "has the foreign tensor"
        raise HfgdError(f"'{path}' {kind} '{odd[0]}': it does not belong to its {CONFIG}.")
    for key, shape in expected.items():
        if tuple(weights[key].shape) != shape:
            raise HfgdError(
                f"'{path}': '{key}' has shape {list(weights[key].shape)} and {CONFIG} asks for "
                f"{list(shape)}; the two files do not belong together."
            )
    model.load_state_dict(weights)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises HfgdError for a missing or damaged one."""
    if not path.is_file():
        raise HfgdError(f"there is no file '{path}'.")
    try:
        with torch.device("cpu"):
            return load_file(path)
    except (SafetensorError, OSError) as error:
        raise HfgdError(
            f"'{path}' is truncated or no safetensors file ({' '.join(str(error).split())})."
        ) from error
