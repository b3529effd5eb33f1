"""The Python use, as short as it should be: ``create`` and ``load``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfgd.checkpoint import load_model
from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.model.build import build
from hfgd.model.config import BackboneSpec
from hfgd.model.network import Network
from hfgd.model.segmenter import Segmenter
from hfgd.recipes import find_recipe


def create(
    recipe: str = "hfgd_resnet50",
    num_classes: int | None = None,
    *,
    classes: Sequence[str] | None = None,
    pretrained: bool | str | Path = False,
    **model: Any,
) -> Segmenter:
    """A new model of a named recipe: ``create("hfgd_resnet50", num_classes=19)``.

    ``classes``: class names, instead of a bare number. ``pretrained``: False for random weights in
    the backbone, True for timm's (downloaded or cached), or a local file. Further keywords change
    the ``model`` part of the recipe, ``create(..., stride=2, encoder="identity")``; ``backbone``
    takes a name of timm's, ``backbone="resnet18"``.
    Raises HfgdError for unknown names and parts that do not fit.
    """
    if (num_classes is None) == (classes is None):
        raise HfgdError("create() takes either num_classes=N or classes=[names].")
    class_set = ClassSet.numbered(num_classes) if num_classes else ClassSet.of(list(classes or ()))
    changes = {f"model.{key}": value for key, value in model.items()}
    backbone = changes.get("model.backbone")
    if isinstance(backbone, str):
        changes["model.backbone.name"] = changes.pop("model.backbone")
    elif isinstance(backbone, BackboneSpec):
        changes["model.backbone"] = backbone.model_dump(mode="json")
    elif backbone is not None and not isinstance(backbone, dict):
        raise HfgdError(f"backbone takes a name of timm's or a mapping, not {backbone!r}.")
    source = pretrained if isinstance(pretrained, bool) else str(pretrained)
    changes.setdefault("model.backbone.pretrained", source)
    resolved = find_recipe(recipe).with_(**changes)
    network = build(resolved.model, class_set)
    assert network.config is not None
    told = {"name": resolved.name, "crop": resolved.augment.crop, "branch": resolved.branch}
    network.config = network.config.model_copy(update=told)
    return network


def load(
    path: str | Path,
    device: str = "cpu",
    network: Network | None = None,
    code: str | Path | None = None,
) -> Network:
    """A saved model: a run folder, a folder with model.safetensors and config.json, or one on the hub,
    ``hf://user/name`` or ``hf://user/name@revision``.

    ``network``: takes the weights of a model that was put together by hand, without a builder.
    ``code``: a folder that you trust, which holds the module of the model's ``@hfgd.builder``. Without
    it a model runs no code but what you have imported yourself.
    """
    return load_model(path, device, network, code)
