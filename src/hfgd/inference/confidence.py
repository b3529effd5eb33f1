"""One image and its label map, with the mean confidence where the model gives scores."""

import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from hfgd.data.images import Pixels
from hfgd.errors import HfgdError
from hfgd.inference.labeller import Labeller

if TYPE_CHECKING:
    from torch import Tensor


class Labelled(NamedTuple):
    """``labels`` (H, W) uint8; ``seconds`` of the network; ``confidence``: the mean over the pixels of
    the best class's probability, None where the model gives labels alone; ``sure`` (H, W) uint8: 255
    times it, where it was asked for."""

    labels: Pixels
    seconds: float
    confidence: float | None
    sure: Pixels | None = None


@dataclass(frozen=True)
class ConfidenceConfig:
    """What is wanted of the model's confidence.

    ``written``: as ``out/confidence``; ``minimum``: pixels of which the model is less sure are void;
    ``temperature``: the model's own, which ``of`` finds.
    """

    written: bool = False
    minimum: float = 0.0
    temperature: float = 1.0

    def of(self, model_path: str, labeller: Labeller, server: str | None) -> "ConfidenceConfig":
        """The same with the model's temperature; raises HfgdError where void pixels cannot be, and
        where the model or the installation gives no confidence.
        """
        from hfgd.inference.temperature import read_temperature

        if find_spec("torch") is None:
            raise HfgdError(
                "--confidence and --min-confidence need PyTorch, which is not installed."
            )
        if not labeller.gives_scores:
            raise HfgdError(
                f"'{model_path}' gives labels alone, without confidence; export it with --logits."
            )
        if self.minimum and server is not None:
            raise HfgdError(
                "--min-confidence leaves pixels void, which a test server does not take; "
                "leave out one of --min-confidence and --server."
            )
        return replace(self, temperature=read_temperature(model_path, labeller))

    def settings(self) -> dict[str, object]:
        """What makes results others than those without it."""
        return {
            "confidence": self.written,
            "min_confidence": self.minimum,
            "temperature": self.temperature,
        }


def label(labeller: Labeller, pixels: Pixels, sure: ConfidenceConfig | None = None) -> Labelled:
    """Label (H, W, 3) uint8 RGB."""
    began = time.perf_counter()
    if sure is not None:
        import torch

        from hfgd.inference.temperature import with_confidence

        image = torch.from_numpy(pixels).permute(2, 0, 1)
        maps = labeller.reduced(image, with_confidence(sure.temperature, sure.minimum))
        labels, found = maps.permute(2, 0, 1).contiguous().cpu().numpy()
        return Labelled(labels, time.perf_counter() - began, float(found.mean()) / 255, found)
    if not labeller.gives_scores:
        labels = labeller(pixels)
        return Labelled(labels, time.perf_counter() - began, None)
    import torch

    mean = Confidence()
    labels = labeller.reduced(torch.from_numpy(pixels).permute(2, 0, 1), mean).cpu().numpy()
    value = float(mean.total) / max(1, labels.size)
    return Labelled(labels, time.perf_counter() - began, value)


class Confidence:
    """Reduces scores (rows, W, K) to the best class and adds up its probability."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0

    def __call__(self, rows: slice, scores: "Tensor") -> "Tensor":
        labels, total = best_and_sure(scores)
        self.total = self.total + total
        return labels


def best_and_sure(scores: "Tensor") -> "tuple[Tensor, Tensor]":
    """(rows, W, K), which is overwritten → the best class, uint8, and its probability summed."""
    import torch

    from hfgd.parallel.device import finest_float

    highest, labels = scores.max(-1)  # the first one of equals, as argmax says
    # 1 / Σ exp(score - highest) is the softmax of the highest
    rest = scores.sub_(highest[..., None]).exp_().sum(-1)
    return labels.to(torch.uint8), rest.reciprocal_().sum(dtype=finest_float(rest.device))
