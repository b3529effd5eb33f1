"""The model card of a run: what the hub shows of a model. It tells nothing of anybody's machine.

Whatever it says stands in the run: ``config.json`` (classes, network), ``report.json`` (scores) and
``recipe.yaml`` (training). What stands nowhere is said to be unknown.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from hfgd.checkpoint import WEIGHTS, model_folder, read_config
from hfgd.errors import HfgdError
from hfgd.hub import is_hub
from hfgd.inference.protocol import Protocol
from hfgd.model.backbones.timm_pyramid import licence_in_words
from hfgd.model.config import ModelConfig
from hfgd.parse import read_json
from hfgd.recipes.spec import read_recipe_yaml
from hfgd.text import inline

PANELS = "panels.png"
NAMELESS = "user/name"
LICENCE = re.compile(r"[a-z][a-z0-9.-]*")
WEAKEST = 3  # classes that the limits name
MEANS = {"mIoU": "mean_iou", "mAcc": "mean_accuracy", "aAcc": "accuracy"}


@dataclass(frozen=True)
class CardInfo:
    """What the run does not know, and whoever shares it may: ``dataset``: the data's id on the hub;
    ``licence``: of the weights, as the hub writes it.
    """

    name: str = NAMELESS
    dataset: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Scored:
    """A report.json, and the day of that file."""

    content: dict[str, Any]
    day: date

    @property
    def data(self) -> str:
        """The data's name, without the place where it lies."""
        return public(self.content["data"])

    @property
    def protocol(self) -> Protocol:
        """How the images were labelled."""
        return Protocol.model_validate(self.content["protocol"])

    def ious(self) -> dict[str, float | None]:
        """IoU of each class, a fraction; None where it is absent."""
        return {row["name"]: row["IoU"] for row in self.content["classes"]}


def card(run: str, told: CardInfo = CardInfo()) -> str:
    """The model card of a run folder or a model folder, Markdown with the hub's front matter.

    Raises HfgdError for what is no model, a damaged report, and a malformed licence.
    """
    folder = model_folder(run)
    root = folder if is_hub(run) else Path(run)
    config = read_config(folder)
    licence = told.licence or config.facts.get("licence")
    if licence is not None and not LICENCE.fullmatch(str(licence)):
        raise HfgdError(f"'{licence}' is no licence as the hub writes them, such as apache-2.0.")
    recipe_file = root / "recipe.yaml"
    recipe = read_recipe_yaml(recipe_file) if recipe_file.is_file() else {}
    reports = list(_reports(root, folder / WEIGHTS))
    parts = [
        _front(config, reports, told, licence),
        f"# {inline(config.name)}\n",
        f"![image, label and prediction]({PANELS})\n" if (root / PANELS).is_file() else "",
        _what(config),
        _use(config, told.name),
        _scores(config, reports),
        _classes(config, reports),
        _training(recipe),
        _licences(config, recipe, licence),
        _limits(config, recipe, reports),
    ]
    return "\n".join(part for part in parts if part)


def public(text: object) -> str:
    """A text, or the last part of it where it is a path: the rest is of somebody's machine."""
    told = str(text)
    if "://" in told:
        return told.split("?")[0] if is_hub(told) else public(told.split("://")[1])
    if told.startswith(("/", "~", ".")) or PureWindowsPath(told).drive or "\\" in told:
        parts = PureWindowsPath(told).parts  # takes both kinds of slash
        return parts[-1] if parts else "data"
    return told


def _reports(root: Path, weights: Path) -> Iterable[Scored]:
    """The run's own report first, then those of 'hfgd eval' that are not older than the weights."""
    own = root / "report.json"
    later = sorted(root.glob("eval-*/report.json"))
    known = [file for file in later if file.stat().st_mtime >= weights.stat().st_mtime]
    for file in [own, *known] if own.is_file() else known:
        try:
            found = Scored(
                read_json(file),
                date.fromtimestamp(file.stat().st_mtime),
            )
            _ = found.protocol, found.ious(), found.content["images"], found.data
        except (HfgdError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise HfgdError(
                f"'{file}' is no report of hfgd eval; mend it, or take it away."
            ) from error
        yield found


def _front(config: ModelConfig, reports: list[Scored], told: CardInfo, licence: object) -> str:
    """The front matter; the licence is that of the weights, and never one that nobody stated."""
    front: dict[str, Any] = {"license": str(licence)} if licence else {"license": "other"}
    if not licence:
        front["license_name"] = "unknown"
    front |= {"library_name": "hfgd", "pipeline_tag": "image-segmentation"}
    front["tags"] = ["hfgd", "semantic-segmentation"]
    if config.model is not None:
        front["tags"].append(config.model.backbone.name)
    if told.dataset:
        front["datasets"] = [told.dataset]
    if reports:
        results = [_result(report, told) for report in reports]
        front["model-index"] = [{"name": config.name, "results": results}]
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n"


def _result(report: Scored, told: CardInfo) -> dict[str, Any]:
    """One entry of the model-index; scores are fractions."""
    how = report.protocol.describe()
    slug = re.sub(r"[^a-z0-9]+", "-", report.data.lower()).strip("-")
    return {
        "task": {"type": "image-segmentation", "name": "Semantic segmentation"},
        "dataset": {"type": told.dataset or slug or "data", "name": report.data},
        "metrics": [
            {"type": kind, "name": f"{name} ({how})", "value": round(report.content[name], 4)}
            for name, kind in MEANS.items()
            if _is_number(report.content.get(name))
        ],
    }


def _what(config: ModelConfig) -> str:
    """The network in a sentence."""
    text = f"A model that gives each pixel of an image one of {len(config.classes)} classes, "
    if config.model is not None:
        spec = config.model
        text += (
            f"made with hfgd: backbone {spec.backbone.name}, encoder {spec.encoder}, upsampler "
            f"{spec.upsampler} at stride {spec.stride}, {spec.width} channels."
        )
    else:
        text += "a network of its maker's own, trained with hfgd."
    return text + "\n"


def _use(config: ModelConfig, name: str) -> str:
    """Two lines of Python, one of the shell, and what else they need."""
    network, needs = "", ""
    if config.builder is not None:
        needs = (
            f"\nIt is built by `{config.builder.name}`, code of its maker's: name the folder that "
            "holds it by `code=FOLDER`, and by `--code FOLDER` in the shell.\n"
        )
    elif config.model is None:
        network = ", network=network"
        needs = "\nIt needs the network that takes the weights, put together by its maker's code.\n"
    return (
        "## Use\n\n```python\nimport hfgd\n\n"
        f'labels = hfgd.load("hf://{name}"{network}).predict("photo.jpg").labels\n```\n\n'
        f"```\nhfgd predict hf://{name} photos --out predictions\n```\n{needs}"
    )


def _scores(config: ModelConfig, reports: list[Scored]) -> str:
    """What was measured, under which protocol, when."""
    if not reports:
        return "## Scores\n\nNo scores lie with this model.\n"
    text = "## Scores\n\n| data | images | mIoU | mAcc | aAcc | date |\n"
    text += "| --- | ---: | ---: | ---: | ---: | --- |\n"
    notes = []
    for report in reports:
        content = report.content
        means = " | ".join(_percent(content.get(name)) for name in MEANS)
        first = f"{inline(report.data)} | {inline(content['images'])}"
        text += f"| {first} | {means} | {report.day} |\n"
        branch = inline(content.get("branch", config.branch))
        precision = inline(public(content.get("precision", "not told")))
        notes.append(
            f"- {inline(report.data)}: protocol {inline(report.protocol.describe())}; "
            f"branch {branch}; "
            f"precision {precision}\n"
        )
    return f"{text}\nIn percent. The date is that of the report.\n\n{''.join(notes)}"


def _classes(config: ModelConfig, reports: list[Scored]) -> str:
    ious = reports[0].ious() if reports else {}
    text = "## Classes\n\n| index | class | colour | IoU |\n| ---: | --- | --- | ---: |\n"
    for index, (name, rgb) in enumerate(zip(config.classes, config.palette, strict=True)):
        colour = "#{:02x}{:02x}{:02x}".format(*rgb)
        text += f"| {index} | {inline(name)} | {colour} | {_percent(ious.get(name))} |\n"
    return f"{text}\nIoU on {inline(reports[0].data)}, in percent.\n" if reports else text


def _training(recipe: Mapping[str, Any]) -> str:
    """What the recipe says of it; names of data, never their places."""
    if not recipe:
        return "## Training\n\nNo recipe lies with this model.\n"
    data, train, optim = (recipe.get(part) or {} for part in ("data", "train", "optim"))
    crop = (recipe.get("augment") or {}).get("crop", "?")
    lines = {
        "data": f"{public(data.get('location'))}, split {data.get('train_split')}"
        if data.get("location")
        else "given in Python; the recipe does not name it",
        "images at most": data.get("limit"),
        "began with": _beginning(recipe),
        "iterations": train.get("iterations"),
        "batch size": train.get("batch_size"),
        "crop": crop if not isinstance(crop, list) else "×".join(map(str, crop)),
        "optimiser": f"{optim.get('name')}, learning rate {optim.get('lr')}",
        "criterion": (recipe.get("loss") or {}).get("criterion"),
        "seed": train.get("seed"),
    }
    told = "".join(
        f"- {key}: {inline(value)}\n" for key, value in lines.items() if value is not None
    )
    return f"## Training\n\n{told}"


def _beginning(recipe: Mapping[str, Any]) -> str:
    """What the weights were before the training, as the recipe says."""
    init = (recipe.get("train") or {}).get("init")
    if init:
        return f"the model {init}" if is_hub(init) else "another model"
    backbone = (recipe.get("model") or {}).get("backbone") or {}
    if recipe.get("network") or not backbone:
        return "what its builder gives"
    if isinstance(backbone.get("pretrained"), str):
        return f"weights of {backbone.get('name')} from a local file"
    if backbone.get("pretrained"):
        return f"the pre-trained weights of {backbone.get('name')} that timm names"
    return "random weights"


def _licences(config: ModelConfig, recipe: Mapping[str, Any], licence: object) -> str:
    weights = str(licence) if licence else "unknown: nobody stated one; ask who shares them"
    began = _beginning(recipe) if recipe else "not known, for no recipe lies with this model"
    return (
        "## Licences\n\n- code (hfgd): Apache-2.0\n"
        f"- these weights: {weights}\n"
        f"- the backbone's pre-trained weights that timm names: "
        f"{licence_in_words(config.licence_of_backbone)}; the training began with: {inline(began)}\n"
        "- the training images: not known here; ask their publisher\n"
    )


def _limits(config: ModelConfig, recipe: Mapping[str, Any], reports: list[Scored]) -> str:
    """What must not be expected; only what follows from the files."""
    lines = [
        f"It knows its {len(config.classes)} classes alone: whatever else is in an image gets one of "
        "their names."
    ]
    location = (recipe.get("data") or {}).get("location")
    if location:
        lines.append(
            f"It was trained on {inline(public(location))}; on other images nothing is known of it."
        )
    if location == "scenes":
        lines.append("'scenes' are generated drawings of streets, not photographs.")
    if not reports:
        lines.append("It comes without scores: measure it on data of yours before you rely on it.")
        return "## Limits\n\n" + "".join(f"- {line}\n" for line in lines)
    first = reports[0]
    known = {name: iou for name, iou in first.ious().items() if _is_number(iou)}
    weakest = sorted(known, key=lambda name: known[name] or 0.0)[:WEAKEST]
    named = ", ".join(f"{inline(name)} ({_percent(known[name])})" for name in weakest)
    lines.append(f"Weakest classes on {inline(first.data)}, IoU in percent: {named}.")
    if first.content.get("absent"):
        lines.append(
            f"Never seen there, so not scored: {', '.join(map(inline, first.content['absent']))}."
        )
    lines.append(
        "The scores hold for the protocol named above, and for one training; another seed may move "
        "them."
    )
    return "## Limits\n\n" + "".join(f"- {line}\n" for line in lines)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _percent(value: float | None) -> str:
    return "–" if value is None or not _is_number(value) else f"{100 * value:.2f}"
