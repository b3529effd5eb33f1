"""A run is a recipe: frozen, typed, YAML in and out.

The resolved recipe is written into the run folder and is enough to repeat the run. Unknown keys and
wrong types are refused with the path of the key.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from hfgd.data.transforms.spec import AugmentSpec
from hfgd.errors import HfgdError, unknown
from hfgd.losses.spec import LossSpec
from hfgd.model.config import Builder, ModelSpec
from hfgd.parse import parse_yaml, read_yaml
from hfgd.types import Branch, Line, Spec

FREE = (
    "options",
    "paper",
    "criterion",
    "guide_criterion",
)  # keys whose mapping is replaced as a whole


class DataSpec(Spec):
    """``location``: a data folder, a data.yaml with a path, or 'scenes'; ``data_yaml``: one that
    lies elsewhere. The two splits name folders under images/ and labels/. ``limit``: use only that
    many images of each split, spread evenly, for a quick try."""

    location: str | None = None
    data_yaml: Path | None = None
    train_split: str = "train"
    val_split: str = "val"
    limit: int | None = Field(None, gt=0)


class OptimSpec(Spec):
    """The optimiser and its schedule: poly to 0, per iteration.

    ``weight_decay`` acts on weights only: never on biases, norms, relative position tables.
    ``warmup``: iterations over which the rate rises linearly to the schedule's; the paper has none.
    ``clip_norm``: the gradient's norm is cut to this. ``backbone_lr`` and ``head_lr``: factors on
    ``lr`` for the backbone and for everything else (0.1 for a pre-trained backbone is common).
    ``layer_decay``: the rate of each layer of the backbone is this times the rate of the one above it
    (0.7 to 0.95 for Swin and ConvNeXt). They multiply.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    power: float = Field(0.9, gt=0)
    warmup: int = Field(0, ge=0)
    clip_norm: float | None = Field(None, gt=0)
    backbone_lr: float = Field(1.0, gt=0)
    head_lr: float = Field(1.0, gt=0)
    layer_decay: float | None = Field(None, gt=0, le=1)


class TrainSpec(Spec):
    """How long, on how much, how often looked at, and on which terms.

    ``iterations``: optimiser steps. ``batch_size``: images of a step, over all processes and all of its
    ``accumulate`` parts, which pass the network one after the other.
    ``keep_every``: also keep the model of every so many iterations. ``loggers``: beside the CSV files.
    ``init``: a trained model to start from; its class tokens are matched by class name.
    ``freeze``: 'backbone' keeps its weights and its batch-norm statistics as they are; 'batch_norm' the
    statistics of every batch norm. ``ema``: decay of a moving average of the weights, which is then the
    model that is scored and saved. ``deterministic``: refuse operations that differ between runs.
    ``workers``: processes that make batches; 'auto' shares the machine's cores among its processes.
    ``compile``: torch.compile the network. ``channels_last``: the memory format that most convolutions
    are fastest in. ``checkpoint_activations``: compute the backbone's activations again in the backward
    pass rather than keep them.
    """

    iterations: int = Field(30_000, gt=0)
    batch_size: int = Field(16, gt=0)
    validate_every: int = Field(1000, gt=0)
    checkpoint_every: int = Field(1000, gt=0)
    log_every: int = Field(50, gt=0)
    workers: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    accumulate: int = Field(1, gt=0)
    keep_every: int | None = Field(None, gt=0)
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    init: str | None = None
    freeze: tuple[Literal["backbone", "batch_norm"], ...] = ()
    ema: float | None = Field(None, gt=0, lt=1)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    deterministic: bool = False
    compile: bool = False
    checkpoint_activations: bool = False
    channels_last: bool = True
    seed: int = Field(0, ge=0)
    panels: int = Field(4, ge=1)


class Recipe(Spec):
    """Everything that decides a run.

    ``network``: a marked function that makes the network, in place of ``model``; see hfgd.builder.
    ``branch``: whose logits are scored; the fine ones, but in the paper's problem verification.
    ``dataset`` and ``paper``: the paper's data set and its mIoU in percent by protocol ("ss" single
    scale, "mf" multi-scale and flip, "test" a test server's under a protocol that the paper does not
    state), for rows of its tables.
    """

    name: Line
    description: str = ""
    model: ModelSpec = ModelSpec()
    network: Builder | None = None
    data: DataSpec = DataSpec()
    optim: OptimSpec = OptimSpec()
    augment: AugmentSpec = AugmentSpec()
    loss: LossSpec = LossSpec()
    train: TrainSpec = TrainSpec()
    branch: Branch = "fine"
    dataset: str | None = None
    paper: dict[Literal["ss", "mf", "test"], float] = Field(default_factory=dict)

    def with_(self, **changes: Any) -> "Recipe":
        """This recipe with dotted keys changed: ``with_(**{"optim.lr": 0.02})``."""
        content = self.model_dump(mode="json")
        for key, value in changes.items():
            _set(content, key, value)
        return check_recipe(content, self.name)

    def yaml(self) -> str:
        """The whole recipe as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def check_recipe(content: Mapping[str, Any], where: str) -> Recipe:
    """A Recipe from plain values; raises HfgdError that names the key."""
    try:
        return Recipe.model_validate(_migrated(content))
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            raise HfgdError(
                f"{where}: {'.'.join(path)}: {unknown('key', path[-1], _keys(path[:-1]))}"
            ) from error
        given = first["input"]
        shown = "" if isinstance(given, Mapping) else f" (given: {given!r})"
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise HfgdError(f"{where}: {'.'.join(path)}: {message}{shown}.") from error


def _migrated(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe of an earlier version: OCR's region loss was called ``loss.aux``."""
    loss = content.get("loss")
    if not isinstance(loss, Mapping) or not has_ocr_alone(content):
        return content
    if "aux" in loss and "region" not in loss:
        return {**content, "loss": {**loss, "region": loss["aux"]}}
    return content


def has_ocr_alone(content: Mapping[str, Any]) -> bool:
    """Whether a recipe's model has OCR and no auxiliary FCN: earlier its ``loss.aux`` was OCR's."""
    model = content.get("model")
    if not isinstance(model, Mapping):
        return False
    return model.get("encoder") == "ocr" and model.get("aux_fcn", "none") == "none"


def parse_overrides(settings: Sequence[str]) -> dict[str, Any]:
    """``key=value`` strings → dotted keys with YAML values."""
    overrides = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key.strip():
            raise HfgdError(f"--set takes key=value, for example optim.lr=0.02, not '{setting}'.")
        overrides[key.strip()] = parse_yaml(
            text, f"--set {key.strip()}: '{' '.join(text.split())[:80]}'"
        )
    return overrides


def read_recipe_yaml(path: Path) -> dict[str, Any]:
    """The content of a recipe file; raises HfgdError for a file that is none."""
    content = read_yaml(path, f"recipe '{path}'")
    if not isinstance(content, dict):
        raise HfgdError(f"recipe '{path}' must hold keys such as 'base:' and 'train:'.")
    return content


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the nested values of ``changes`` laid over it."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping) and key not in FREE
        merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def first_difference(a: Recipe, b: Recipe) -> str | None:
    """The first dotted key in which two recipes differ, with both values."""
    left, right = _flat(a.model_dump(mode="json")), _flat(b.model_dump(mode="json"))
    for key in left | right:
        if left.get(key) != right.get(key):
            return (
                f"{key} is {json.dumps(left.get(key))} there and {json.dumps(right.get(key))} here"
            )
    return None


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _set(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        if parent not in content:
            raise HfgdError(f"{key}: {unknown('key', parent, _keys(parents[:depth]))}")
        below = content[parent]
        if not isinstance(below, dict):
            raise HfgdError(f"{key}: '{parent}' is a value and has no keys below it.")
        content = below
    content[last] = value


def _keys(path: Sequence[str]) -> list[str]:
    """The known keys at a place in a recipe."""
    here: Any = Recipe(name="").model_dump(mode="json")
    for part in path:
        here = here.get(part) if isinstance(here, dict) else None
    return list(here) if isinstance(here, dict) else []
