"""Encoders, the paper's "extra encoding": (B, C_4, h, w) → (B, D, h, w).

A new one is its own file and one line in ``ENCODERS``.
"""

from collections.abc import Callable

from torch import nn

from hfgd.model.encoders.aspp import ASPP
from hfgd.model.encoders.cae import CAE
from hfgd.model.encoders.identity import Identity
from hfgd.model.encoders.ocr import OCR
from hfgd.model.encoders.ppm import PPM
from hfgd.model.encoders.sa import SA, SACAR
from hfgd.model.parts import Encoded, EncoderSite

ENCODERS: dict[str, Callable[[EncoderSite], nn.Module]] = {
    "identity": lambda site: Identity(site.in_width, site.width),
    "aspp": lambda site: ASPP(site.in_width, site.width, site.stride),
    "ppm": lambda site: PPM(site.in_width, site.width, site.grid),
    "ocr": lambda site: OCR(site.in_width, site.width, site.num_classes),
    "sa": lambda site: SA(site.in_width, site.width),
    "sa_car": lambda site: SACAR(site.in_width, site.width),
    "cae": lambda site: CAE(site.in_width, site.width),
}

__all__ = ["ENCODERS", "Encoded", "EncoderSite"]
