"""Pictures that need a model or a whole report: panels of predictions, score plots."""

from collections.abc import Mapping
from pathlib import Path

import torch

from hfgd.data.dataset import SegDataset
from hfgd.evaluation.evaluate import evaluating, pick
from hfgd.evaluation.plots import PanelRow, class_bars, confusion, panels
from hfgd.evaluation.scores import Scores
from hfgd.model.segmenter import Segmenter


def draw_scores(scores: Scores, folder: Path) -> None:
    """confusion.png and iou_per_class.png."""
    confusion(scores, folder / "confusion.png")
    class_bars(scores, folder / "iou_per_class.png")


def predict_panels(
    models: Mapping[str, Segmenter], dataset: SegDataset, count: int, path: Path
) -> None:
    """A picture of what the models say of ``count`` images, beside the truth and their errors."""
    rows = []
    for image, label, (name,) in pick(dataset, count):
        pixels = (image[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        predictions = {}
        for title, model in models.items():
            with evaluating(model):
                logits = model(image.to(model.hfgm.tokens.weight.device)).full_size()
            predictions[title] = logits.argmax(1)[0].to("cpu", torch.uint8).numpy()
        rows.append(PanelRow(name, pixels, label[0].to(torch.uint8).numpy(), predictions))
    panels(rows, dataset.classes, path)
