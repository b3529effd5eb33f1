"""What a data set holds, as numbers and as pictures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from hfgd.data.dataset import Part, Sample, SegDataset
from hfgd.data.loader import TrainStream
from hfgd.data.prediction import Prediction, colourise, with_legend
from hfgd.errors import HfgdError
from hfgd.files import write_whole

CELL = 360  # pixels, the width of each picture on the sheet


def class_shares(
    dataset: SegDataset, limit: int, progress: Callable[[int], None] = lambda done: None
) -> tuple[np.ndarray, int]:
    """Pixels of each class, ignored ones last, and how many images were read for it."""
    part = Part(dataset, min(limit, len(dataset)))
    pixels = np.zeros(256, dtype=np.int64)
    for i in range(len(part)):
        pixels += np.bincount(part[i].label.numpy().ravel(), minlength=256)
        progress(i + 1)
    return np.append(pixels[: len(dataset.classes)], pixels[255]), len(part)


def class_weights(pixels: np.ndarray, method: str) -> list[float]:
    """Weights for the loss from the pixels of each class; a class without any gets 1.

    'median': the median share divided by the class's, as SegNet's authors did on CamVid. 'log':
    1 / ln(1.02 + share), ENet's, much milder.
    """
    shares = pixels / max(1, pixels.sum())
    if method == "log":
        weights = 1 / np.log(1.02 + shares)
    else:
        seen = shares[shares > 0]
        weights = np.median(seen) / np.where(shares > 0, shares, 1) if len(seen) else shares
    return [round(float(w), 4) for w in np.where(shares > 0, weights, 1.0)]


def sample_sheet(dataset: SegDataset, path: Path, count: int = 6) -> None:
    """Images beside their labels, two pairs a row, with the classes that occur named below."""
    part = Part(dataset, min(count, len(dataset)))
    cells, labels = [], []
    for i in range(len(part)):
        image, label, _ = part[i]
        labels.append(label.numpy().ravel())
        pixels = image.permute(1, 2, 0).numpy()
        pair = [Image.fromarray(pixels), Image.fromarray(colourise(label.numpy(), dataset.classes))]
        height = round(CELL * pixels.shape[0] / pixels.shape[1])
        size = (CELL, height)
        scaled = [pair[0].resize(size), pair[1].resize(size, Image.Resampling.NEAREST)]
        cell = Image.new("RGB", (2 * CELL, height))
        cell.paste(scaled[0])
        cell.paste(scaled[1], (CELL, 0))
        cells.append(cell)
    rows = [cells[i : i + 2] for i in range(0, len(cells), 2)]
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("RGB", (4 * CELL if len(cells) > 1 else 2 * CELL, sum(heights)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (2 * CELL * column, top))
        top += height
    path.parent.mkdir(parents=True, exist_ok=True)
    with_legend(sheet, np.concatenate(labels), dataset.classes).save(path)


# ---- the sheet of augmented samples --------------------------------------------------------------


SHEET_CELL = 220  # pixels, the width of each picture
IMAGES, DRAWS = 3, 6  # rows of single images, columns


def augmented_sheet(stream: TrainStream, path: Path) -> None:
    """Rows: an image as it is and five draws of it; below them the run's first six samples.

    Each sample is shown twice, plain and below with its label; pixels that are ignored are darker.
    """
    count = min(IMAGES, len(stream.dataset))
    rows = []
    for i in range(count):
        index = (2 * i + 1) * len(stream.dataset) // (2 * count)
        draws = [stream.drawn(index, i * DRAWS + j, rare=False) for j in range(DRAWS - 1)]
        rows.append([stream.dataset[index], *draws])
    firsts = [stream[k] for k in range(DRAWS)]
    for sample in firsts:
        if isinstance(sample, HfgdError):
            raise sample
    rows.append([sample for sample in firsts if isinstance(sample, Sample)])
    strips = [_strip(row, stream) for row in rows]
    sheet = Image.new("RGB", (DRAWS * SHEET_CELL, sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    labels = np.concatenate([sample.label.numpy().ravel() for row in rows for sample in row])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = with_legend(sheet, labels, stream.dataset.classes)
    write_whole(path, lambda part: picture.save(part, "PNG"))


def _strip(row: list[Sample], stream: TrainStream) -> Image.Image:
    """The samples side by side."""
    cells = [_cell(sample, stream) for sample in row]
    strip = Image.new(
        "RGB", (len(cells) * SHEET_CELL, max(cell.height for cell in cells) + 6), "white"
    )
    for column, cell in enumerate(cells):
        strip.paste(cell, (column * SHEET_CELL, 0))
    return strip


def _cell(sample: Sample, stream: TrainStream) -> Image.Image:
    """The picture, and below it the picture with its label."""
    pixels = sample.image.permute(1, 2, 0).numpy()
    shown = Prediction(pixels, sample.label.numpy(), stream.dataset.classes)
    size = (SHEET_CELL - 4, max(1, round((SHEET_CELL - 4) * pixels.shape[0] / pixels.shape[1])))
    cell = Image.new("RGB", (SHEET_CELL, 2 * size[1] + 2), "white")
    cell.paste(Image.fromarray(pixels).resize(size))
    cell.paste(shown.overlay(0.6, legend=False).resize(size), (0, size[1] + 2))
    return cell
