"""CAR: class-aware regularisations [18] on the encoder's features (paper §3.2).

Three terms pull pixels to the centre of their class and push centres and pixels from the other
classes. Followed to the letter of the authors' code: each loss is the square of a mean; ignored
pixels are left out of the centres and of ``intra``, but not of ``c2p``; centres are summed over
all images of the batch and over all processes, and so are the means that are squared: several processes
give the loss and the gradients of one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hfgd.parallel.processes import averaged, summed

EPS = 1e-7


def car_terms(features: Tensor, label: Tensor, num_classes: int) -> dict[str, Tensor]:
    """The terms ``c2c``, ``c2p`` and ``intra``, in fp32.

    ``features`` (B, C, h, w); ``label`` (B, h, w) on the same grid, values outside 0..K−1 ignored.
    """
    with torch.autocast(features.device.type, enabled=False):
        pixels = features.float().flatten(2).transpose(1, 2).flatten(0, 1)  # (P, C)
        flat = label.flatten().long()
        valid = (flat >= 0) & (flat < num_classes)
        index = torch.where(valid, flat, num_classes)
        members = F.one_hot(index, num_classes + 1)[:, :num_classes].to(pixels.dtype)  # (P, K)
        centres = class_centres(pixels, members)  # (K, C)
        return {
            "c2c": _inter_centres(centres),
            "c2p": _inter_pixels(pixels, members, centres.detach()),
            "intra": _intra(pixels, members, centres.detach()),
        }


def class_centres(pixels: Tensor, members: Tensor) -> Tensor:
    """Mean feature of each class (K, C) over all processes; zero for an absent class."""
    sums, counts = summed(members.t() @ pixels), summed(members.sum(0))
    return sums / counts.clamp(min=1)[:, None]


def _inter_centres(centres: Tensor) -> Tensor:
    """How far centres attend to other centres beyond 0.5 / (K − 1)."""
    count, width = centres.shape
    relation = torch.softmax(centres @ centres.detach().t() / width**0.5, dim=1)
    others = 1 - torch.eye(count, device=centres.device)
    return _excess(relation * others, 0.5 / max(1, count - 1))


def _inter_pixels(pixels: Tensor, members: Tensor, centres: Tensor) -> Tensor:
    """How far pixels attend to the centres of other classes beyond 0.25 / (K − 1).

    A pixel's own class enters with the energy of its centre with itself.
    """
    count, width = centres.shape
    own = (centres * centres).sum(1)
    energy = torch.where(members.bool(), own, pixels @ centres.t()) / width**0.5
    relation = torch.softmax(energy, dim=1)
    return _excess(relation * (1 - members), 0.25 / max(1, count - 1))


def _excess(relation: Tensor, threshold: float) -> Tensor:
    hinge = torch.where(relation > threshold, relation - threshold, torch.zeros_like(relation))
    return averaged(hinge.sum(1).clamp(EPS, 1 - EPS).mean()).square()


def _intra(pixels: Tensor, members: Tensor, centres: Tensor) -> Tensor:
    """Distance of pixels to their own centre; ignored pixels count as zero."""
    distance = (members @ centres - pixels).abs() * members.sum(1, keepdim=True)
    return averaged(distance.mean()).square().clamp(min=1e-5)
