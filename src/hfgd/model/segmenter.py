"""The model, on one screen: backbone → encoder → HFGM. Read this first, then hfgm.py.

Every row of every table of the paper is an instance of this composition, never a subclass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hfgd import upsampled
from hfgd.data.classes import ClassSet
from hfgd.data.draw import Prediction
from hfgd.data.images import read_image
from hfgd.errors import HfgdError
from hfgd.geometry import Frame
from hfgd.model.aux_fcn import AuxFCN
from hfgd.model.backbone import Backbone
from hfgd.model.hfgm import HFGM

Branch = Literal["fine", "guide", "aux"]


class SegOutput(NamedTuple):
    """What the network gives; every map lies over the padded image (see ``frame``).

    ``logits`` (B, K, H'/s, W'/s): the fine branch's, the model's answer.
    ``guide_logits`` (B, K, h, w): the guiding branch's; None at inference and without guidance.
    ``aux_logits`` (B, K, h, w): OCR's regions or the auxiliary FCN's; None without them.
    ``regularised`` (B, 512, h, w): what CAR's losses act on; None without CAR.
    """

    logits: Tensor
    guide_logits: Tensor | None
    aux_logits: Tensor | None
    regularised: Tensor | None
    frame: Frame

    def branch(self, branch: Branch) -> Tensor:
        """The logits of a branch as the network gives them; raises HfgdError without it."""
        logits = {"fine": self.logits, "guide": self.guide_logits, "aux": self.aux_logits}[branch]
        if logits is None:
            raise HfgdError(f"this model has no {branch} branch to score; use the fine one.")
        return logits

    def full_size(self, branch: Branch = "fine") -> Tensor:
        """The logits of a branch at the image's own size: (B, K, H, W)."""
        return self.frame.restore(self.branch(branch))

    def labels(self, branch: Branch = "fine") -> Tensor:
        """The best class of every pixel: (B, H, W) uint8; full-size logits are never made."""
        return upsampled.labels(self.branch(branch), self.frame)


class Segmenter(nn.Module):
    """A semantic-segmentation network with its classes; takes any height and width."""

    def __init__(
        self,
        backbone: Backbone,
        encoder: nn.Module,
        hfgm: HFGM,
        classes: ClassSet,
        aux_fcn: AuxFCN | None = None,
    ) -> None:
        super().__init__()
        if len(classes) != hfgm.tokens.weight.shape[0]:
            raise HfgdError(
                f"{len(classes)} class names for {hfgm.tokens.weight.shape[0]} class tokens; "
                "give one name for each."
            )
        self.backbone = backbone
        self.encoder = encoder
        self.hfgm = hfgm
        self.classes = classes
        self.aux_fcn = aux_fcn

    def forward(self, image: Tensor, all_branches: bool | None = None) -> SegOutput:
        """(B, 3, H, W) RGB in [0, 1] → SegOutput.

        ``all_branches``: whether guide and aux logits are computed too; by default while training.
        """
        all_branches = self.training if all_branches is None else all_branches
        *skips, top = self.backbone(image)  # (B, C_i, H'/s_i, W'/s_i), fine to coarse
        high, regularised, aux_logits = self.encoder(top)  # (B, D, h, w): the high-level feature
        logits, guide_logits = self.hfgm(skips, high, all_branches)
        if self.aux_fcn is not None and all_branches:
            aux_logits = self.aux_fcn(top)
        frame = self.backbone.frame(image)
        return SegOutput(logits, guide_logits, aux_logits, regularised, frame)

    def predict(self, image: str | Path | Image.Image | np.ndarray) -> Prediction:
        """Label one image, whole and at its own size.

        ``image``: a path, a PIL image, or an array (H, W, 3) uint8 RGB. EXIF orientation is
        applied. The model is used in evaluation mode and left in the mode it was in.
        Raises HfgdError for a file that is no readable image.
        """
        pixels = read_image(image)
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(self.hfgm.tokens.weight)
        with evaluating(self):
            labels = self(x / 255).labels()[0].cpu().numpy()
        return Prediction(pixels, labels, self.classes)


@contextmanager
def evaluating(model: Segmenter) -> Iterator[Segmenter]:
    """The model in evaluation mode without gradients; afterwards every part in the mode it was in."""
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        for module in trained:  # one by one: parts that are kept in evaluation mode stay so
            module.training = True
