"""Label maps as pictures: palette files, overlays, legends."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hfgd.data.classes import IGNORE, ClassSet
from hfgd.data.images import Pixels, without_suffix


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image: ``image`` (H, W, 3) uint8 RGB, ``labels`` (H, W) uint8.

    ``confidence`` (H, W) uint8, where asked for: 255 times the probability of the best class.
    """

    image: Pixels
    labels: Pixels
    classes: ClassSet
    confidence: Pixels | None = None

    def label_image(self) -> Image.Image:
        """The label map as a palette image: the pixel values are the class ids."""
        return palette_image(self.labels, self.classes)

    def overlay(self, opacity: float = 0.5, legend: bool = True) -> Image.Image:
        """The labels in their colours over the image, with the classes that occur named below."""
        colours = self.label_image().convert("RGB")
        mixed = Image.blend(Image.fromarray(self.image), colours, opacity)
        return with_legend(mixed, self.labels, self.classes) if legend else mixed

    def save(self, path: str | Path) -> Path:
        """Write the label map as a palette PNG, making its folder; returns the path.

        Another picture's suffix becomes .png, and a name without one gets it.
        """
        path = Path(f"{without_suffix(Path(path))}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.label_image().save(path)
        return path


def palette_image(labels: Pixels, classes: ClassSet) -> Image.Image:
    """(H, W) class ids → a palette ("P") image; void is black."""
    image = Image.fromarray(labels)
    image.putpalette(_table(classes).astype(np.uint8).tobytes())  # turns "L" into "P"
    return image


def colourise(labels: Pixels, classes: ClassSet) -> Pixels:
    """(H, W) class ids → (H, W, 3) uint8 RGB; void is black."""
    return _table(classes).take(labels, axis=0)


def _table(classes: ClassSet) -> Pixels:
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(classes)] = classes.palette
    return table


def with_legend(image: Image.Image, labels: Pixels, classes: ClassSet) -> Image.Image:
    """The image with a strip below that names the classes in ``labels``, most frequent first."""
    counts = np.bincount(labels[labels != IGNORE].ravel(), minlength=len(classes))
    shown = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    size = max(10, min(24, image.width // 40))
    font, gap = ImageFont.load_default(size), size // 2
    places: list[tuple[int, int, int]] = []
    x, y = gap, gap
    for index in shown:
        needed = size + gap + round(font.getlength(classes.names[index])) + 2 * gap
        if x + needed > image.width and x > gap:
            x, y = gap, y + size + gap
        places.append((x, y, index))
        x += needed
    strip = Image.new("RGB", (image.width, y + size + gap), "white")
    draw = ImageDraw.Draw(strip)
    for x, y, index in places:
        draw.rectangle((x, y, x + size, y + size), fill=classes.palette[index], outline="black")
        draw.text((x + size + gap, y - size // 8), classes.names[index], fill="black", font=font)
    sheet = Image.new("RGB", (image.width, image.height + strip.height))
    sheet.paste(image)
    sheet.paste(strip, (0, image.height))
    return sheet
