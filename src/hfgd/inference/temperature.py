"""Confidence that one can take at its word: one temperature for a model's scores [Guo et al., 2017].

The scores are divided by it before the softmax; no label changes. It is fitted on images with labels
from histograms over a grid of temperatures, in the same pass that scores them: memory does not grow
with the images. The two halves of the data set keep theirs apart, so that the error after calibration
is that of each half with the temperature of the other.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hfgd.data.classes import IGNORE
from hfgd.data.images import Pixels
from hfgd.errors import HfgdError
from hfgd.files import write_text
from hfgd.inference.labeller import Labeller, origin
from hfgd.parse import read_json
from hfgd.progress import say

if TYPE_CHECKING:
    from torch import Tensor

    from hfgd.inference.labeller import Reduce


FILE = "temperature.json"
STEPS = np.arange(-12, 33)  # eighths of an octave: from 0.35 to 16
GRID = 2.0 ** (STEPS / 8)
ONE = int(np.flatnonzero(STEPS == 0)[0])
BINS = 15  # of confidence, as in the paper
PIXELS = 4096  # of an image are looked at, on a regular grid
LOWEST = -100.0  # below the best score: no probability to speak of
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TemperatureFit:
    """``temperature``, and the expected calibration error as a fraction: before, and after."""

    temperature: float
    before: float
    after: float
    pixels: int

    def as_dict(self) -> dict[str, float | int]:
        """Plain values, for reports."""
        return {
            "temperature": self.temperature,
            "ECE before": self.before,
            "ECE after": self.after,
            "pixels": self.pixels,
            "bins": BINS,
        }


class Histograms:
    """Sums over pixels for each temperature of the grid, in two halves.

    ``loss`` (2, T): of negative log-likelihoods; ``bins`` (2, T, BINS, 3): pixels, right ones, and the
    sum of their confidences.
    """

    def __init__(self) -> None:
        self.loss: Floats = np.zeros((2, len(GRID)))
        self.bins: Floats = np.zeros((2, len(GRID), BINS, 3))

    def __add__(self, other: "Histograms") -> "Histograms":
        total = Histograms()
        total.loss, total.bins = self.loss + other.loss, self.bins + other.bins
        return total

    def watching(self, labeller: Labeller, label: "Tensor", half: int) -> Labeller:
        """The labeller, whose scores of the image with this ``label`` (H, W) are counted on their way.

        ``half``: of the data set, 0 or 1.
        """
        return _Watched(labeller, self.counting(label, half))

    def counting(self, label: "Tensor", half: int) -> "Callable[[slice, Tensor], None]":
        """What counts some rows of an image and their scores (rows, W, K)."""
        height, width = label.shape
        step = max(1, round((height * width / PIXELS) ** 0.5))

        def count(rows: slice, scores: "Tensor") -> None:
            first = (step // 2 - rows.start) % step
            chosen = slice(first, None, step), slice(step // 2, None, step)
            truth = label[rows].to(scores.device)[chosen]
            valid = truth != IGNORE
            self._count(scores[chosen][valid], truth[valid], half)

        return count

    def _count(self, scores: "Tensor", truth: "Tensor", half: int) -> None:
        """Scores (n, K) and classes (n,)."""
        import torch

        from hfgd.model.network import best
        from hfgd.parallel.device import finest_float

        if not len(scores):
            return
        exact = finest_float(scores.device)
        right = best(scores[None])[0] == truth
        scores = (scores.float() - scores.amax(-1, keepdim=True).float()).clamp_min(LOWEST)
        given = scores.gather(-1, truth.long()[:, None])[:, 0]
        for i, temperature in enumerate(GRID.tolist()):
            total = (scores / temperature).exp().sum(-1)  # 1 is the best class's share of it
            confidence = 1 / total
            self.loss[half, i] += float((total.log() - given / temperature).sum(dtype=exact))
            place = (confidence * BINS).long().clamp_max(BINS - 1)
            values = torch.stack([torch.ones_like(confidence), right.float(), confidence], -1)
            sums = torch.zeros(BINS, 3, dtype=exact, device=scores.device)
            self.bins[half, i] += sums.index_add_(0, place, values.to(exact)).cpu().numpy()

    def fitted(self) -> TemperatureFit:
        """The temperature of the least loss; raises HfgdError where no pixel had a label."""
        pixels = self.bins[:, 0, :, 0].sum(-1)
        if not pixels.sum():
            raise HfgdError("a temperature needs pixels with labels, and there were none.")
        best = int(self.loss.sum(0).argmin())
        of_half = self.loss.argmin(1) if pixels.all() else [best, best]
        after = self.bins[0, of_half[1]] + self.bins[1, of_half[0]]
        before = self.bins[:, ONE].sum(0)
        return TemperatureFit(float(GRID[best]), ece(before), ece(after), int(pixels.sum()))


class _Watched:
    """A Labeller whose scores are seen by ``count`` before they are reduced."""

    def __init__(self, labeller: Labeller, count: "Callable[[slice, Tensor], None]") -> None:
        self._labeller, self._see = labeller, count
        self.classes, self.protocol = labeller.classes, labeller.protocol
        self.branch, self.precision = labeller.branch, labeller.precision
        self.calibrated_on, self.gives_scores = labeller.calibrated_on, True

    def labels(self, image: "Tensor") -> "Tensor":
        from hfgd.model.network import best

        return self.reduced(image, lambda rows, scores: best(scores))

    def reduced(self, image: "Tensor", reduce: "Reduce") -> "Tensor":
        def both(rows: slice, scores: "Tensor") -> "Tensor":
            self._see(rows, scores)
            return reduce(rows, scores)

        return self._labeller.reduced(image, both)

    def __call__(self, pixels: Pixels) -> Pixels:
        import torch

        labels: Pixels = self.labels(torch.from_numpy(pixels).permute(2, 0, 1)).cpu().numpy()
        return labels


def ece(bins: Floats) -> float:
    """Expected calibration error of (BINS, 3): pixels, right ones, sum of confidences."""
    return float(np.abs(bins[:, 1] - bins[:, 2]).sum() / bins[:, 0].sum())


def save_temperature(path: str, labeller: Labeller, calibration: TemperatureFit, data: str) -> Path:
    """Write what was fitted beside the model at ``path``; returns the file."""
    file = _file(path)
    content = {
        **calibration.as_dict(),
        "data": data,
        "protocol": labeller.protocol.model_dump(mode="json"),
        "branch": labeller.branch,
        "weights": _digest(path),
    }
    write_text(file, json.dumps(content, indent=1) + "\n")
    return file


def read_temperature(path: str, labeller: Labeller) -> float:
    """The temperature of the model at ``path``; 1 where there is none for it, and says so.

    One that was fitted for other weights, another protocol or another branch is none.
    """
    file = _file(path)
    if not file.is_file():
        why = "no temperature was fitted"
        return _uncalibrated(path, why)
    try:
        content = read_json(file)
        temperature = float(content["temperature"])
        if not (isinstance(content, dict) and 0 < temperature < math.inf):
            raise ValueError("no temperature")
    except (HfgdError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise HfgdError(
            f"'{file}' is damaged; delete it, or fit it again with hfgd eval {path} --calibrate."
        ) from error
    if content.get("weights") != _digest(path):
        return _uncalibrated(path, "the temperature beside it was fitted for other weights")
    if content.get("protocol") != labeller.protocol.model_dump(mode="json"):
        return _uncalibrated(path, "its temperature was fitted under another protocol")
    if content.get("branch") != labeller.branch:
        return _uncalibrated(path, "its temperature was fitted for another branch")
    return temperature


def _uncalibrated(path: str, why: str) -> float:
    say(
        f"uncalibrated: {why}, so confidence is the plain softmax's; "
        f"hfgd eval {path} --data DATA --calibrate fits one on the validation images."
    )
    return 1.0


def _file(path: str) -> Path:
    place = origin(path).place
    return place.with_name(f"{place.stem}.{FILE}") if place.is_file() else place / FILE


def _digest(path: str) -> str:
    with origin(path).weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_confidence(temperature: float, minimum: float = 0.0) -> "Reduce":
    """A reduction to (rows, W, 2) uint8: the best class, and 255 times its probability.

    Below the probability ``minimum`` the class is void.
    """
    from hfgd.model.network import best

    def reduce(rows: slice, scores: "Tensor") -> "Tensor":
        import torch

        above = scores - scores.amax(-1, keepdim=True)
        confidence = 1 / (above / temperature).exp().sum(-1)
        labels = best(scores).masked_fill(confidence < minimum, IGNORE)
        return torch.stack([labels, (255 * confidence).round().to(torch.uint8)], -1)

    return reduce
