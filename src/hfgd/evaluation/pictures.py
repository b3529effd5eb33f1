"""Pictures that need a model or a whole report: panels of predictions, score plots."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from hfgd.data.dataset import Part, Sample, SegDataset
from hfgd.evaluation.inference import label_image
from hfgd.evaluation.plots import PanelRow, class_bars, confusion, panels
from hfgd.evaluation.protocol import SINGLE_SCALE, Protocol
from hfgd.evaluation.report import WORST, percent, worst_images
from hfgd.evaluation.scores import Scores
from hfgd.model.segmenter import Branch, Segmenter, evaluating


def draw_scores(scores: Scores, folder: Path) -> None:
    """confusion.png and iou_per_class.png."""
    confusion(scores, folder / "confusion.png")
    class_bars(scores, folder / "iou_per_class.png")


def predict_panels(
    models: Mapping[str, Segmenter],
    dataset: SegDataset,
    count: int,
    path: Path,
    protocol: Protocol = SINGLE_SCALE,
    branch: Branch = "fine",
) -> None:
    """A picture of what the models say of ``count`` images, beside the truth and their errors."""
    whole = Part(dataset, min(count, len(dataset)))
    rows = [panel_row(models, whole[i], protocol, branch) for i in range(len(whole))]
    panels(rows, dataset.classes, path)


def worst_panels(
    model: Segmenter,
    dataset: SegDataset,
    scores: Scores,
    path: Path,
    protocol: Protocol,
    branch: Branch = "fine",
) -> None:
    """The images that came out worst, each with its score."""
    assert scores.images is not None
    place = {name: i for i, name in enumerate(scores.images.names)}
    rows = []
    for name, miou in worst_images(scores, WORST):
        row = panel_row({"prediction": model}, dataset[place[name]], protocol, branch)
        rows.append(replace(row, name=f"{name}  mIoU {percent(miou)}"))
    if rows:
        panels(rows, dataset.classes, path)


def panel_row(
    models: Mapping[str, Segmenter],
    sample: Sample,
    protocol: Protocol = SINGLE_SCALE,
    branch: Branch = "fine",
) -> PanelRow:
    """One image with the label map of each model."""
    predictions = {}
    for title, model in models.items():
        image = sample.image[None].to(model.hfgm.tokens.weight.device).float() / 255
        with evaluating(model):
            predictions[title] = label_image(model, image, protocol, branch).cpu().numpy()
    pixels = sample.image.permute(1, 2, 0).numpy()
    return PanelRow(sample.name, pixels, sample.label.to(torch.uint8).numpy(), predictions)
