"""Suspect regions for annotation tools: COCO, CVAT and Label Studio, and a table.

Each region stands under the class that the model suggests; what it was labelled as goes along.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from hfgd.data.classes import ClassSet
from hfgd.files import write_text
from hfgd.review.quality import Found, SuspectRegion, runs_of
from hfgd.text import csv_text
from hfgd.types import Size


@dataclass(frozen=True)
class Judged:
    """An image with what was found: its ``key`` (split and name), ``file``, and ``size`` (H, W)."""

    key: str
    file: str
    size: Size
    fold: int | None
    found: Found


def write_lists(
    judged: Sequence[Judged], classes: ClassSet, out: Path, merged: Sequence[str] = ()
) -> str | None:
    """coco.json, labelstudio.json and cvat.xml, the images in the given order.

    ``merged``: classes that stand for several of the tool's own. Label Studio and CVAT would not
    know them, so their lists are not written then; the reason is returned.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "coco.json", json.dumps(coco(judged, classes)) + "\n")
    if merged:
        for name in ("labelstudio.json", "cvat.xml"):
            (out / name).unlink(missing_ok=True)  # of an earlier call
        return (
            f"lists/labelstudio.json and lists/cvat.xml are not written: label_map merges several "
            f"values into {', '.join(merged)}, and which of them a region should be is not known; "
            "use lists/coco.json or review.csv."
        )
    write_text(out / "labelstudio.json", json.dumps(label_studio(judged), indent=1) + "\n")
    write_text(out / "cvat.xml", cvat(judged, classes))
    return None


def coco(judged: Sequence[Judged], classes: ClassSet) -> dict[str, Any]:
    """COCO JSON: uncompressed runs over the whole image, boxes, scores."""
    annotations = [
        {
            "image_id": number,
            "category_id": classes.names.index(region.suggested) + 1,
            "segmentation": {"size": list(one.size), "counts": whole_runs(region, one.size)},
            "area": region.pixels,
            "bbox": list(region.box),
            "iscrowd": 0,
            "score": round(region.confidence, 4),
            "attributes": {"labelled as": region.labelled},
        }
        for number, one in enumerate(judged, start=1)
        for region in one.found.regions
    ]
    return {
        "images": [
            {"id": n, "file_name": one.file, "height": one.size[0], "width": one.size[1]}
            for n, one in enumerate(judged, start=1)
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(classes.names)],
        "annotations": [{"id": n, **content} for n, content in enumerate(annotations, start=1)],
    }


def whole_runs(region: SuspectRegion, size: Size) -> list[int]:
    """COCO's runs of a region: down the columns of the whole image, zeros first."""
    left, top, width, height = region.box
    columns = np.zeros((width, size[0]), dtype=bool)
    columns[:, top : top + height] = region.patch().T
    runs = runs_of(columns.ravel())
    before, after = left * size[0], (size[1] - left - width) * size[0]
    runs[0] += before
    if after and len(runs) % 2:  # ends with zeros
        runs[-1] += after
    elif after:
        runs.append(after)
    return runs


def label_studio(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Label Studio's tasks with predictions: a box around each region."""
    return [
        {
            "data": {"image": f"/data/local-files/?d={quote(one.file)}"},
            "predictions": [
                {
                    "model_version": "hfgd review",
                    # the tool sorts tasks by it: low ones first
                    "score": one.found.quality,
                    "result": [
                        _rectangle(region, one.size, n)
                        for n, region in enumerate(one.found.regions)
                    ],
                }
            ],
        }
        for one in judged
    ]


def _rectangle(region: SuspectRegion, size: Size, number: int) -> dict[str, Any]:
    height, width = size
    left, top, across, down = region.box
    return {
        "id": f"region{number}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": round(region.confidence, 4),
        "meta": {"text": [f"labelled as {region.labelled}"]},
        "value": {
            "x": 100 * left / width,
            "y": 100 * top / height,
            "width": 100 * across / width,
            "height": 100 * down / height,
            "rotation": 0,
            "rectanglelabels": [region.suggested],
        },
    }


def cvat(judged: Sequence[Judged], classes: ClassSet) -> str:
    """CVAT for images 1.1: a mask for each region."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels"
    )
    for name, colour in zip(classes.names, classes.palette, strict=True):
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "color").text = "#{:02x}{:02x}{:02x}".format(*colour)
        ElementTree.SubElement(label, "attributes")
    for number, one in enumerate(judged):
        height, width = one.size
        image = ElementTree.SubElement(
            root, "image", id=str(number), name=one.file, width=str(width), height=str(height)
        )
        for region in one.found.regions:
            left, top, across, down = region.box
            ElementTree.SubElement(
                image, "mask", label=region.suggested, source="auto", occluded="0",
                rle=", ".join(map(str, region.runs)), left=str(left), top=str(top),
                width=str(across), height=str(down), z_order="0",
            )  # fmt: skip
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


COLUMNS = ("rank", "image", "file", "fold", "quality", "loss", "mean probability", "suspect share",
           "region", "labelled as", "suggested", "pixels", "confidence", "left", "top", "width",
           "height")  # fmt: skip


def table(judged: Iterable[Judged]) -> str:
    """A CSV: a line for each region, and one for each image without any."""
    rows: list[Sequence[object]] = [COLUMNS]
    for rank, one in enumerate(judged, start=1):
        found = one.found
        scores = (found.quality, found.loss, found.mean, found.suspect)
        first = [rank, one.key, one.file, "" if one.fold is None else one.fold + 1]
        first += ["" if value is None else f"{value:.6g}" for value in scores]
        for number, region in enumerate(found.regions, start=1):
            what = (number, region.labelled, region.suggested, region.pixels)
            rows.append([*first, *what, f"{region.confidence:.4f}", *region.box])
        if not found.regions:
            rows.append([*first, *[""] * 9])
    return csv_text(rows)
