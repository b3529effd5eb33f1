"""Small values that many parts name. No torch in here: an exported file runs without it."""

from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from hfgd.text import is_line

Branch = Literal["fine", "guide", "aux"]
Side = Annotated[int, Field(gt=0, le=1 << 16)]  # of an image or a window, in pixels
Precision = Literal["fp32", "bf16", "fp16", "auto"]


def _line(text: str) -> str:
    if not is_line(text):
        raise ValueError("a name is one line without control characters")
    return text


Line = Annotated[str, AfterValidator(_line)]


class Spec(BaseModel):
    """A frozen value; unknown keys are refused with their path."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


# ---- how maps lie over the image -----------------------------------------------------------------


Size = tuple[int, int]  # (height, width), always in this order
Spans = tuple[tuple[int, int], ...]  # (start, length) of the windows along one side

COARSEST = 32  # the coarsest stride of most pyramids; image sizes are padded to fit it


class Grid(StrEnum):
    """Where the samples of a downsampled map sit.

    ``CORNERS``: convolutional stems with symmetric padding (ResNet, MobileNet, EfficientNet).
    At sizes 32m+1 every level spans the image from corner to corner, so every resize is exact
    with ``align_corners=True``; this is why the paper trains on 513.
    ``CELLS``: patch stems, kernel = stride (ConvNeXt, Swin). At sizes 32m every sample is the
    centre of its patch, so ``align_corners=False`` is exact.
    """

    CORNERS = "corners"
    CELLS = "cells"

    def padded(self, size: Size, multiple: int = COARSEST) -> Size:
        """The next size, at least ``size``, on which this grid is exact: m·n + 1, or m·n."""
        height, width = size
        return self._padded_side(height, multiple), self._padded_side(width, multiple)

    def _padded_side(self, n: int, multiple: int) -> int:
        # rounded up by a division of positive numbers: exporters get -(-n // m) wrong
        if self is Grid.CORNERS:
            return max(1, (n + multiple - 2) // multiple) * multiple + 1
        return (n + multiple - 1) // multiple * multiple

    def finer(self, size: Size) -> Size:
        """The size of the level with half the stride."""
        height, width = size
        return (2 * height - 1, 2 * width - 1) if self is Grid.CORNERS else (2 * height, 2 * width)


class Frame(NamedTuple):
    """How one batch lies in the network: its own size, the padded size, and the grid.

    Padding is at the right and the bottom, with the value that is zero after normalisation.
    """

    image: Size
    padded: Size
    grid: Grid


class Memory(NamedTuple):
    """What a network holds while it labels one image, as bytes of each padded pixel.

    ``pixel`` + ``line`` · the longer side + ``square`` · the pixels: activations and class scores,
    attention along rows and columns, attention between all pixels.
    """

    pixel: float
    line: float = 0.0
    square: float = 0.0

    @classmethod
    def guess(cls, classes: int) -> "Memory":
        """For a network that could not be counted: more than any of ours needs."""
        return cls(600 + 12.0 * classes, 0.5)

    def needed(self, size: Size, grid: Grid) -> int:
        """Bytes for one image of a size."""
        height, width = grid.padded(size)
        pixels = height * width
        each = self.pixel + self.line * max(height, width) + self.square * pixels
        return int(pixels * each)
