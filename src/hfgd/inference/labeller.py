"""The Labeller: the one way from an image to its labels, for scores, files, panels and the service.

A PyTorch network (networks.py) and an exported file (exported.py) both fulfil it. No torch in here:
a file runs without.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from hfgd.data.classes import ClassSet
from hfgd.data.images import Pixels
from hfgd.inference import protocol as protocols
from hfgd.values import Branch

if TYPE_CHECKING:
    from torch import Tensor

    # some rows of an image and their scores (rows, W, K) fp32, whose softmax over K is the
    # probabilities → what is wanted of them, (rows, W, …)
    Reduce = Callable[[slice, Tensor], Tensor]


class Labeller(Protocol):
    """RGB image → label map at its size."""

    classes: ClassSet
    protocol: protocols.Protocol
    branch: Branch
    precision: str
    gives_scores: bool  # whether ``reduced`` can be asked
    calibrated_on: str | None  # data/split that an int8 file took its scales from

    def labels(self, image: "Tensor") -> "Tensor":
        """(3, H, W) uint8 RGB → class ids (H, W) uint8, on the labeller's own device."""

    def reduced(self, image: "Tensor", reduce: "Reduce") -> "Tensor":
        """(3, H, W) uint8 RGB → whatever ``reduce`` makes of every pixel's scores, (H, W, …).

        The scores of the whole image are never there at once. Raises HfgdError for an exported file
        that gives labels alone.
        """

    def __call__(self, pixels: Pixels) -> Pixels:
        """(H, W, 3) uint8 RGB → class ids (H, W) uint8."""
