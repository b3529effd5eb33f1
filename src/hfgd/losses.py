"""The losses, as a dict of named terms. Labels never enter the model.

``fine`` and ``guide``: cross-entropy of the two branches (paper §3.1); ``aux``: cross-entropy of
logits of their own; ``car_c2c``, ``car_c2p``, ``car_intra``: see car.py.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hfgd.car import car_terms
from hfgd.data.classes import IGNORE
from hfgd.geometry import Frame
from hfgd.model.segmenter import SegOutput
from hfgd.upsampled import cross_entropy_sum

Normalise = Literal["valid", "all"]


class LossSpec(BaseModel):
    """Weights of the terms, and what cross-entropy is averaged over.

    ``normalise``: 'valid' is the mean over labelled pixels (0 for a batch without any); 'all' is
    the authors', the sum over labelled pixels divided by the number of all pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fine: float = Field(1.0, ge=0)
    guide: float = Field(1.0, ge=0)
    aux: float = Field(0.4, ge=0)
    car: float = Field(1.0, ge=0)
    normalise: Normalise = "valid"


def loss_terms(output: SegOutput, label: Tensor, spec: LossSpec) -> dict[str, Tensor]:
    """Weighted terms, each a scalar; their sum is the loss. ``label`` (B, H, W), 255 = ignore."""
    frame, normalise = output.frame, spec.normalise
    terms = {"fine": spec.fine * cross_entropy(output.logits, label, frame, normalise)}
    if output.guide_logits is not None:
        terms["guide"] = spec.guide * cross_entropy(output.guide_logits, label, frame, normalise)
    if output.aux_logits is not None:
        terms["aux"] = spec.aux * cross_entropy(output.aux_logits, label, frame, normalise)
    if output.regularised is not None and spec.car:
        size = (output.regularised.shape[-2], output.regularised.shape[-1])
        coarse = frame.labels_at(label, size, IGNORE)
        num_classes = output.logits.shape[1]
        for name, term in car_terms(output.regularised, coarse, num_classes).items():
            terms[f"car_{name}"] = spec.car * term
    return terms


def cross_entropy(logits: Tensor, label: Tensor, frame: Frame, normalise: Normalise) -> Tensor:
    """Cross-entropy at the label's size, in fp32.

    ``logits`` (B, K, h, w) lie over the padded image; ``label`` (B, H, W), 255 = ignore.
    """
    weight = (label != IGNORE).float()
    total = cross_entropy_sum(logits, label, weight, frame)
    return total / (weight.sum().clamp(min=1) if normalise == "valid" else label.numel())
