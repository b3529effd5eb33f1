"""Numbers before a file is left behind: the file beside the PyTorch network, size by size.

A check at the traced size alone cannot see the commonest defect, a size that was wrongly computed
inside the file. Images are upsampled noise, so that labels have regions and borders.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hfgd.errors import HfgdError
from hfgd.export.sessions import run
from hfgd.export.wrapper import ExportWrapper
from hfgd.resample import resize
from hfgd.types import Grid, Size

ENOUGH = 0.9999  # share of equal labels
SMALLEST = (1, 33, 65, 97, 129, 193, 257)  # sides that are tried, until one runs
LONG, SHORT = 289, 40  # of the tall and the wide image


class Checked(NamedTuple):
    """One size: the share of equal labels, and the largest difference of any two logits, if told."""

    what: str
    size: Size
    equal: float
    logits: float | None

    def __str__(self) -> str:
        height, width = self.size
        told = f"{self.what:8} {height:5}×{width:<5} {100 * self.equal:8.4f} % of labels equal"
        if self.logits is None:
            return told
        return f"{told}, logits differ by {self.logits:.1e} at most"


class ComparedPair(NamedTuple):
    """A network and what it became: sessions with the output ``logits``, and of what is left behind.

    ``path``: where that will lie, for messages.
    """

    network: ExportWrapper
    path: Path
    with_logits: Any
    final: Any

    def outputs(self, images: Tensor) -> list[dict[str, npt.NDArray[Any]]]:
        """What both files give for uint8 images."""
        x = self.network.as_input(images).numpy()
        return [run(session, self.path, x) for session in (self.with_logits, self.final)]


def check_dynamic(pair: ComparedPair, traced: Size, exact: Size) -> tuple[list[Checked], int]:
    """Compare at six sizes, and with two images at once; returns that and the smallest side it takes.

    Raises HfgdError, which says where, if fewer than 99.99 % of labels are equal anywhere.
    """
    smallest = find_smallest(pair)
    short = max(SHORT, smallest)
    sizes = {
        "traced": traced,
        "exact": exact,
        "inexact": (max(90, smallest + 2), max(61, smallest)),
        "smallest": (smallest, smallest),
        "tall": (max(LONG, 2 * short), short),
        "wide": (short, max(LONG, 2 * short)),
    }
    checked = [compare(pair, what, size) for what, size in sizes.items()]
    return [*checked, compare(pair, "two", sizes["inexact"], count=2)], smallest


def find_smallest(pair: ComparedPair) -> int:
    """The smallest side that the file takes, alone and beside a long one."""
    why = ""
    for side in SMALLEST:
        try:
            for size in ((side, side), (side, LONG), (LONG, side)):
                pair.outputs(noise(size))
            return side
        except HfgdError as error:
            why = str(error)
    raise HfgdError(f"the exported file was deleted: it fails on every small image. {why}")


def compare(pair: ComparedPair, what: str, size: Size, seed: int = 0, count: int = 1) -> Checked:
    """Both at one size; raises HfgdError if they are not the same model."""
    image = noise(size, seed, count)
    with torch.no_grad():
        labels, logits = (x.numpy() for x in pair.network(pair.network.as_input(image)))
    found = pair.outputs(image)
    for outputs in found:
        if outputs["labels"].shape != labels.shape:
            shape = "×".join(map(str, outputs["labels"].shape[1:]))
            raise _refused(what, size, f"the file's label map is {shape}")
    equal = min(float((outputs["labels"] == labels).mean()) for outputs in found)
    far = largest_difference(found[0]["logits"], logits)
    if not equal >= ENOUGH:
        raise _refused(
            what, size, f"only {100 * equal:.3f} % of labels are equal, logits differ by {far:.1e}"
        )
    return Checked(what, size, equal, far)


def largest_difference(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """The largest absolute difference; infinite where one is no number."""
    difference = np.abs(a.astype(np.float64) - b).max()
    return float(difference) if np.isfinite(difference) else float("inf")


def noise(size: Size, seed: int = 0, count: int = 1) -> Tensor:
    """(count, 3, *size) uint8: coarse noise, upsampled, with fine noise over it."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    coarse = (2 + height // 16, 2 + width // 16)
    regions = torch.rand(count, 3, *coarse, generator=generator)
    fine = torch.rand(count, 3, height, width, generator=generator)
    image = 0.8 * resize(regions, size, Grid.CELLS) + 0.2 * fine
    return (image * 255).round().to(torch.uint8)


def _refused(what: str, size: Size, why: str) -> HfgdError:
    return HfgdError(
        f"the exported file was deleted: it is not the same model at the {what} size "
        f"{size[0]}×{size[1]} (height × width), where {why}; try --size HEIGHT WIDTH for one size."
    )
