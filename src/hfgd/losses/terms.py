"""The losses, as a dict of named terms. Labels never enter the model.

``fine`` and ``guide``: cross-entropy of the two branches (paper §3.1); ``aux``: that of the auxiliary
FCN; ``region``: that of OCR's object regions; ``car_c2c``, ``car_c2p``, ``car_intra``: see car.py.
"""

from functools import lru_cache
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hfgd.data.classes import IGNORE
from hfgd.errors import HfgdError
from hfgd.losses.car import car_terms
from hfgd.losses.cross_entropy import cross_entropy_sum
from hfgd.model.output import SegOutput
from hfgd.parallel.processes import averaged
from hfgd.resample import labels_at

Normalise = Literal["valid", "all"]


class LossSpec(BaseModel):
    """Weights of the terms, and what cross-entropy is averaged over.

    ``normalise``: 'valid' is the mean over labelled pixels (0 for a batch without any); 'all' is
    the authors', the sum over labelled pixels divided by the number of all pixels.
    ``class_weights``: one for each class, in the cross-entropies; 'valid' is then the weighted mean,
    as PyTorch's. ``hfgd data class-weights`` computes some.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fine: float = Field(1.0, ge=0)
    guide: float = Field(1.0, ge=0)
    aux: float = Field(0.4, ge=0)
    region: float = Field(0.4, ge=0)
    car: float = Field(1.0, ge=0)
    normalise: Normalise = "valid"
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None


def loss_terms(output: SegOutput, label: Tensor, spec: LossSpec) -> dict[str, Tensor]:
    """Weighted terms, each a scalar; their sum is the loss.

    ``label`` (B, H, W), uint8 or int64, 255 = ignore.
    """
    weight = pixel_weights(label, output.logits.shape[1], spec)
    # over all processes: the mean of their losses, and of their gradients, is then the whole batch's
    counted: Tensor | float = float(label.numel())
    if spec.normalise == "valid":
        # a batch without a labelled pixel costs nothing
        counted = averaged(weight.sum()).clamp(min=1e-6)
    branches = {
        "fine": (spec.fine, output.logits),
        "guide": (spec.guide, output.guide_logits),
        "aux": (spec.aux, output.aux_logits),
        "region": (spec.region, output.region_logits),
    }
    terms = {
        name: factor * cross_entropy_sum(logits, label, weight, output.frame) / counted
        for name, (factor, logits) in branches.items()
        if logits is not None
    }
    if output.regularised is not None and spec.car:
        size = (output.regularised.shape[-2], output.regularised.shape[-1])
        coarse = labels_at(label, size, output.frame, IGNORE)
        num_classes = output.logits.shape[1]
        for name, term in car_terms(output.regularised, coarse, num_classes).items():
            terms[f"car_{name}"] = spec.car * term
    return terms


def pixel_weights(label: Tensor, num_classes: int, spec: LossSpec) -> Tensor:
    """What each pixel of ``label`` (B, H, W) counts in the cross-entropies: 0 where ignored."""
    if spec.class_weights is None:
        return (label != IGNORE).float()
    check_class_weights(spec, num_classes)
    return _weight_table(spec.class_weights, label.device)[label.long()]


@lru_cache(maxsize=8)
def _weight_table(weights: tuple[float, ...], device: torch.device) -> Tensor:
    """A weight for each of the 256 label values; made once, so that a step copies nothing."""
    with torch.inference_mode(False):
        return torch.tensor([*weights, *[0.0] * (IGNORE + 1 - len(weights))], device=device)


def check_class_weights(spec: LossSpec, num_classes: int) -> None:
    """Refuse class weights that are not one for each class."""
    if spec.class_weights is not None and len(spec.class_weights) != num_classes:
        raise HfgdError(
            f"loss.class_weights has {len(spec.class_weights)} weights for {num_classes} classes; "
            "give one for each, in the order of data.yaml."
        )
