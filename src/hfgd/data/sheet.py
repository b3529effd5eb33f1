"""A sheet of what training will see: some images, several draws of each, and the stream itself."""

from pathlib import Path

import numpy as np
from PIL import Image

from hfgd.data.dataset import Sample
from hfgd.data.draw import Prediction, with_legend
from hfgd.data.loader import TrainStream
from hfgd.errors import HfgdError
from hfgd.files import write_whole

CELL = 220  # pixels, the width of each picture
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
    sheet = Image.new("RGB", (DRAWS * CELL, sum(strip.height for strip in strips)), "white")
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
    strip = Image.new("RGB", (len(cells) * CELL, max(cell.height for cell in cells) + 6), "white")
    for column, cell in enumerate(cells):
        strip.paste(cell, (column * CELL, 0))
    return strip


def _cell(sample: Sample, stream: TrainStream) -> Image.Image:
    """The picture, and below it the picture with its label."""
    pixels = sample.image.permute(1, 2, 0).numpy()
    shown = Prediction(pixels, sample.label.numpy(), stream.dataset.classes)
    size = (CELL - 4, max(1, round((CELL - 4) * pixels.shape[0] / pixels.shape[1])))
    cell = Image.new("RGB", (CELL, 2 * size[1] + 2), "white")
    cell.paste(Image.fromarray(pixels).resize(size))
    cell.paste(shown.overlay(0.6, legend=False).resize(size), (0, size[1] + 2))
    return cell
