"""Models on disk: ``model.safetensors`` + ``config.json``. Loading one never unpickles."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfgd.errors import HfgdError
from hfgd.files import write_text, write_whole
from hfgd.hub import fetch, is_hub
from hfgd.model.build import rebuild
from hfgd.model.config import FORMAT, ModelConfig
from hfgd.model.network import Network
from hfgd.parse import read_json

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_model(model: Network, folder: Path, facts: Mapping[str, Any] | None = None) -> Path:
    """Write a model and everything needed to use it; ``facts`` (iteration, scores) go along.

    Both files replace older ones whole: a kill leaves the old file or the new one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = _apart(model.state_dict())
    write_whole(folder / WEIGHTS, lambda part: save_file(weights, part))
    config = describe(model).model_copy(update={"facts": dict(facts or {})})
    content = config.model_dump(mode="json", exclude_none=True)
    write_text(folder / CONFIG, json.dumps(content, indent=1) + "\n")
    return folder


def add_facts(folder: Path, iteration: int, facts: Mapping[str, Any]) -> None:
    """Add ``facts`` to the model that lies here, if it is the one of this iteration."""
    file = folder / CONFIG
    content = json.loads(file.read_text(encoding="utf-8"))
    known = content.get("facts", {})
    if known.get("iteration") == iteration:
        content["facts"] = {**known, **facts}
        write_text(file, json.dumps(content, indent=1) + "\n")


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in memory of its own: safetensors takes no tied weights."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        apart[key] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart


def describe(model: Network) -> ModelConfig:
    """The config of a network as it is: with the mean, the std and the licence of its backbone."""
    config = model.config or ModelConfig.of(model.classes)
    backbone: Any = getattr(model, "backbone", None)
    if not hasattr(backbone, "mean"):
        return config
    values = {name: tuple(getattr(backbone, name).flatten().tolist()) for name in ("mean", "std")}
    licence = getattr(backbone, "licence", None) or config.licence_of_backbone
    return config.model_copy(update={**values, "licence_of_backbone": licence})


def load_model(
    path: str | Path,
    device: str = "cpu",
    network: Network | None = None,
    code: str | Path | None = None,
) -> Network:
    """The model of a folder that ``save_model`` wrote, ready to predict.

    ``path``: such a folder, a run folder, whose last model it then is, or ``hf://user/name``.
    ``network``: takes the weights, where the folder does not say how to build one. ``code``: a folder
    that the network's own code may be imported from, see ``hfgd.code``.
    Raises HfgdError for anything else, and for a truncated or foreign file.
    """
    folder = model_folder(path)
    config = read_config(folder)
    if config.model is not None and network is None:
        _refuse_other_shapes(config, folder / WEIGHTS)
    model = rebuild(config, code=code) if network is None else network
    if model.classes.names != config.classes:
        raise HfgdError(f"'{folder}' knows other classes than the network that was given for it.")
    _load_weights(model, folder / WEIGHTS)
    model.config = config
    return model.eval().to(device)


def model_folder(path: str | Path) -> Path:
    """The folder with the two files: ``path`` itself, ``last`` in a run folder, or the local copy of
    a model on the hub, ``hf://user/name[@revision]``.
    """
    path = fetch(path) if is_hub(path) else Path(path)
    for folder in (path, path / "last"):
        if (folder / CONFIG).is_file():
            return folder
    if not path.exists():
        raise HfgdError(f"there is no model '{path}'; give a run folder or one with {WEIGHTS}.")
    if path.suffix in (".onnx", ".xml", ".pt2"):
        raise HfgdError(
            f"'{path}' is an exported file, not a model folder; run it with "
            f"hfgd.export.runtime.ExportedModel('{path}')."
        )
    raise HfgdError(
        f"'{path}' holds no model; give a run folder, or a folder with {WEIGHTS} and {CONFIG}."
    )


def read_config(path: str | Path) -> ModelConfig:
    """What a model folder, or a run folder's last model, says of itself; older formats too."""
    file = model_folder(path) / CONFIG
    content = read_json(file)
    if not isinstance(content, dict) or not {"format", "classes", "palette"} <= content.keys():
        raise HfgdError(f"'{file}' is not the configuration of an hfgd model.")
    if not isinstance(content["format"], int) or content["format"] > FORMAT:
        raise HfgdError(f"'{file}' was written by a newer hfgd; update the package to load it.")
    try:
        config = ModelConfig.model_validate(_migrated(content))
        _ = config.class_set
    except HfgdError as error:
        raise HfgdError(f"'{file}': {error}") from error
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        key = (
            ".".join(map(str, error.errors()[0]["loc"]))
            if isinstance(error, ValidationError)
            else error
        )
        raise HfgdError(f"'{file}' holds no usable model: '{key}' is missing or wrong.") from error
    if config.model is not None and config.model.backbone.pretrained is not False:
        raise HfgdError(
            f"'{file}' asks for weights from elsewhere (model.backbone.pretrained), and a saved model "
            "brings its own; hfgd writes false there."
        )
    return config


def is_by_hand(folder: Path) -> bool:
    """Whether the model that lies here does not say how to build its network."""
    if not (folder / CONFIG).is_file():
        return False
    config = read_config(folder)
    return config.model is None and config.builder is None


def _migrated(content: dict[str, Any]) -> dict[str, Any]:
    """A config of any format as one of today's. Format 1 held the whole recipe and loose facts."""
    if content["format"] > 1:
        return content
    content = dict(content)
    recipe = content.pop("recipe")
    kept = {key: content.pop(key) for key in ("classes", "palette", "mean", "std")}
    model = {**recipe["model"], "backbone": {**recipe["model"]["backbone"], "pretrained": False}}
    del content["format"]
    return {
        "name": recipe["name"],
        "model": model,
        "crop": recipe.get("augment", {}).get("crop", (513, 513)),
        "branch": recipe.get("branch", "fine"),
        "facts": content,
        **kept,
    }


def _refuse_other_shapes(config: ModelConfig, path: Path) -> None:
    """Compare what a config describes with the weights' header, before any memory is taken for it."""
    shapes = read_shapes(path)
    with torch.device("meta"):
        try:
            described = rebuild(config)
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:
            raise HfgdError(
                f"'{path.with_name(CONFIG)}' describes a network that cannot be "
                f"({' '.join(str(error).split())[:120]})."
            ) from error
    _compare({key: tuple(v.shape) for key, v in described.state_dict().items()}, shapes, path)


def _load_weights(model: Network, path: Path) -> None:
    weights = read_tensors(path)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    _compare(expected, {key: tuple(value.shape) for key, value in weights.items()}, path)
    wrong = (k for k, v in weights.items() if v.is_floating_point() and not v.isfinite().all())
    if (key := next(wrong, None)) is not None:
        raise HfgdError(f"'{path}': '{key}' holds numbers that are not finite; train it again.")
    model.load_state_dict(weights)


Shapes = Mapping[str, tuple[int, ...]]


def _compare(expected: Shapes, weights: Shapes, path: Path) -> None:
    """Raise HfgdError where the tensors of a file are not those that a network has."""
    missing, foreign = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if missing or foreign:
        odd = sorted(missing)[:1] or sorted(foreign)[:1]
        kind = "lacks" if missing else "has the foreign tensor"
        raise HfgdError(f"'{path}' {kind} '{odd[0]}': it does not belong to its {CONFIG}.")
    for key, shape in expected.items():
        if weights[key] != shape:
            raise HfgdError(
                f"'{path}': '{key}' has shape {list(weights[key])} and {CONFIG} asks for "
                f"{list(shape)}; the two files do not belong together."
            )


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a safetensors file, by its header; raises as ``read_tensors``."""
    if not path.is_file():
        raise HfgdError(f"there is no file '{path}'.")
    try:
        with safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise HfgdError(
            f"'{path}' is truncated or no safetensors file ({' '.join(str(error).split())})."
        ) from error


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
