"""What every encoder returns, and what it is told when it is built."""

from typing import NamedTuple

from torch import Tensor

from hfgd.geometry import Grid


class Encoded(NamedTuple):
    """``high`` (B, D, h, w): the high-level feature, which guides and feeds the upsampler.
    ``regularised`` (B, 512, h, w): the features that CAR's losses act on, where the encoder has them.
    ``region_logits`` (B, K, h, w): OCR's object regions, which have a cross-entropy of their own.
    """

    high: Tensor
    regularised: Tensor | None = None
    region_logits: Tensor | None = None


class EncoderSite(NamedTuple):
    """Where an encoder stands: ``in_width`` channels at ``stride`` come in, ``width`` go out."""

    in_width: int
    width: int
    stride: int
    num_classes: int
    grid: Grid
