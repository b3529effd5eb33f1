"""The losses, as a dict of named terms. Labels never enter the model.

``fine`` and ``guide``: the criteria of the two branches, cross-entropy in the paper (§3.1); with
several criteria a term each, ``fine_dice``; ``aux``: cross-entropy of the auxiliary FCN; ``region``:
that of OCR's object regions; ``car_c2c``, ``car_c2p``, ``car_intra``: see car.py.
"""

from functools import lru_cache

import torch
from torch import Tensor

from hfgd.data.classes import IGNORE
from hfgd.losses.car import car_terms
from hfgd.losses.criteria import CRITERIA
from hfgd.losses.spec import LossSpec, check_class_weights
from hfgd.losses.target import Target, counted_pixels
from hfgd.model.network import SegOutput
from hfgd.resample import labels_at


def loss_terms(output: SegOutput, label: Tensor, spec: LossSpec) -> dict[str, Tensor]:
    """Weighted terms, each a scalar; their sum is the loss.

    ``label`` (B, H, W), uint8 or int64, 255 = ignore.
    """
    num_classes = output.logits.shape[1]
    weight = pixel_weights(label, num_classes, spec)
    classes = None
    if spec.class_weights is not None:
        classes = _weight_table(spec.class_weights, label.device)[:num_classes]
    target = Target(label, weight, counted_pixels(weight, spec), classes, output.frame, spec)
    branches = {
        "fine": (spec.fine, output.logits),
        "guide": (spec.guide, output.guide_logits),
        "aux": (spec.aux, output.aux_logits),
        "region": (spec.region, output.region_logits),
    }
    terms: dict[str, Tensor] = {}
    for branch, (factor, logits) in branches.items():
        if logits is not None:
            criteria = spec.criteria(branch)
            for name, share in criteria.items():
                key = branch if len(criteria) == 1 else f"{branch}_{name}"
                terms[key] = CRITERIA[name](logits, target, factor * share)
    if output.regularised is not None and spec.car:
        size = (output.regularised.shape[-2], output.regularised.shape[-1])
        coarse = labels_at(label, size, output.frame, IGNORE)
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
