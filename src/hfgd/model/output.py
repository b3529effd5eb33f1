"""What a network gives: the value that losses, inference and export read."""

from typing import NamedTuple

import torch
from torch import Tensor

from hfgd.errors import HfgdError
from hfgd.geometry import Frame
from hfgd.resample import image_axis, restore, strips
from hfgd.values import Branch


class SegOutput(NamedTuple):
    """What the network gives; every map lies over the padded image (see ``frame``).

    ``logits`` (B, K, H'/s, W'/s): the fine branch's, the model's answer.
    ``guide_logits`` (B, K, h, w): the guiding branch's; None at inference and without guidance.
    ``aux_logits`` (B, K, h, w): the auxiliary FCN's; None without one.
    ``region_logits`` (B, K, h, w): OCR's object regions; None without OCR.
    ``regularised`` (B, 512, h, w): what CAR's losses act on; None without CAR.
    """

    logits: Tensor
    guide_logits: Tensor | None
    aux_logits: Tensor | None
    region_logits: Tensor | None
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
        return restore(self.branch(branch), self.frame)

    def labels(self, branch: Branch = "fine") -> Tensor:
        """The best class of every pixel: (B, H, W) uint8; full-size logits are never made."""
        logits = self.branch(branch)
        y, x = (image_axis(self.frame, i, logits.shape[2 + i], logits.device) for i in (0, 1))
        with torch.no_grad():
            maps = [torch.cat([best(s) for _, s in strips(each, y, x)]) for each in logits]
        return torch.stack(maps)


def check_output(output: object, classes: int) -> None:
    """Refuse what is no SegOutput with a logit for each class. Looks at shapes, never at values."""
    if not isinstance(output, SegOutput):
        raise HfgdError(
            f"the network's forward must return a SegOutput, not {type(output).__name__}."
        )
    for name in ("logits", "guide_logits", "aux_logits", "region_logits"):
        logits = getattr(output, name)
        if logits is None and name != "logits":
            continue
        shape: tuple[int, ...] = tuple(getattr(logits, "shape", ()))
        if len(shape) != 4 or shape[1] != classes:
            found = "none" if logits is None else f"shape {shape}"
            raise HfgdError(
                f"the network's {name} must be (B, {classes}, h, w), one for each of its {classes} "
                f"classes; got {found}."
            )


def best(logits: Tensor) -> Tensor:
    """(H, W, K) → the best class of every pixel, (H, W) uint8; the first one of equals."""
    return logits.argmax(-1).to(torch.uint8)
