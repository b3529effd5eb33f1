"""``hfgd data info``: what a data set holds, and a picture of samples."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from hfgd.data.dataset import Part, SegDataset
from hfgd.data.draw import colourise, with_legend

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
