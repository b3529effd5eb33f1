"""An exported file where a PyTorch network would stand."""

from pathlib import Path
from typing import TYPE_CHECKING

from hfgd.data.images import Pixels
from hfgd.errors import HfgdError
from hfgd.export.runtime import ExportedModel
from hfgd.inference.protocol import SINGLE_SCALE
from hfgd.types import Branch, Memory, Precision, Size

if TYPE_CHECKING:
    from torch import Tensor

    from hfgd.inference.labeller import Reduce


class FileLabeller:
    """A Labeller; its branch and precision are those that the file was written with.

    ``size``: the only height and width that it takes. Raises HfgdError where another branch or
    precision is asked for, and for a protocol other than ss.
    """

    size: Size | None

    def __init__(
        self,
        path: str,
        protocol: str = "ss",
        branch: Branch | None = None,
        device: str | None = None,
        precision: Precision = "fp32",
        code: str | Path | None = None,
    ) -> None:
        if protocol != SINGLE_SCALE.name:
            raise HfgdError(
                f"'{path}' holds one whole pass over an image: --protocol {protocol} needs the run "
                "folder it was exported from; use ss."
            )
        self._model = ExportedModel(path, device, precision, code)
        own = self._model.facts.branch
        if branch not in (None, own):
            raise HfgdError(
                f"'{path}' holds the {own} branch alone; score the {branch} branch with the run "
                "folder it was exported from."
            )
        self.classes, self.protocol = self._model.classes, SINGLE_SCALE
        facts = self._model.facts
        self.precision, self.grid = self._model.precision, facts.grid
        self.size = facts.size
        self.gives_scores = self._model.gives_logits
        self.calibrated_on = facts.calibrated_on or None
        self.branch: Branch = "guide" if own == "guide" else "aux" if own == "aux" else "fine"

    def memory(self) -> Memory:
        """What an image needs."""
        return self._model.memory

    def keep_at_most(self, keeps: int) -> None:
        """Bytes that the runtime may keep for the next image."""
        self._model.keeps = keeps

    def labels(self, image: "Tensor") -> "Tensor":
        """(3, H, W) uint8 RGB, wherever it is → class ids (H, W) uint8 on the CPU."""
        import torch

        return torch.from_numpy(self._model.batch(image[None].cpu().numpy())[0])

    def reduced(self, image: "Tensor", reduce: "Reduce") -> "Tensor":
        """See Labeller; raises HfgdError where the file was written without --logits."""
        import torch

        logits = torch.from_numpy(self._model.logits(image[None].cpu().numpy())[0])
        return reduce(slice(0, image.shape[1]), logits.permute(1, 2, 0))

    def __call__(self, pixels: Pixels) -> Pixels:
        """(H, W, 3) uint8 RGB → class ids (H, W) uint8."""
        return self._model(pixels)
