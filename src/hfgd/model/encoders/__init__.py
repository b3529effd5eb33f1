"""Encoders, the paper's "extra encoding": (B, C_4, h, w) → (B, D, h, w).

A new one is its own file and one line in ``ENCODERS``.
"""

from collections.abc import Callable

from torch import nn

from hfgd.model.encoders.base import Encoded, EncoderSite
from hfgd.model.encoders.cae import CAE
from hfgd.model.encoders.identity import Identity

ENCODERS: dict[str, Callable[[EncoderSite], nn.Module]] = {
    "identity": lambda site: Identity(site.in_width, site.width),
    "cae": lambda site: CAE(site.in_width, site.width),
}

__all__ = ["ENCODERS", "Encoded", "EncoderSite"]
