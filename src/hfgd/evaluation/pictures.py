"""Pictures that need a labeller or a whole report: panels of predictions, score plots."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hfgd.data.dataset import Part, Sample, SegDataset
from hfgd.evaluation.plots import PanelRow, class_bars, confusion, panels
from hfgd.evaluation.report import WORST, percent, worst_images
from hfgd.evaluation.scores import Scores
from hfgd.inference.labeller import Labeller


def draw_scores(scores: Scores, folder: Path) -> None:
    """confusion.png and iou_per_class.png."""
    confusion(scores, folder / "confusion.png")
    class_bars(scores, folder / "iou_per_class.png")


def label_panels(
    labellers: Mapping[str, Labeller], dataset: SegDataset, count: int, path: Path
) -> None:
    """A picture of what the labellers say of ``count`` images, beside the truth and their errors."""
    whole = Part(dataset, min(count, len(dataset)))
    rows = [panel_row(labellers, whole[i]) for i in range(len(whole))]
    panels(rows, dataset.classes, path)


def worst_panels(labeller: Labeller, dataset: SegDataset, scores: Scores, path: Path) -> None:
    """The images that came out worst, each with its score."""
    assert scores.images is not None
    place = {name: i for i, name in enumerate(scores.images.names)}
    rows = []
    for name, miou in worst_images(scores, WORST):
        row = panel_row({"prediction": labeller}, dataset[place[name]])
        rows.append(replace(row, name=f"{name}  mIoU {percent(miou)}"))
    if rows:
        panels(rows, dataset.classes, path)


def panel_row(labellers: Mapping[str, Labeller], sample: Sample) -> PanelRow:
    """One image with the label map of each labeller."""
    pixels = sample.image.permute(1, 2, 0).numpy()
    maps = {
        title: labeller.labels(sample.image).cpu().numpy() for title, labeller in labellers.items()
    }
    return PanelRow(sample.name, pixels, sample.label.numpy(), maps)
