"""What encoders and upsamplers receive when they are built, and what an encoder returns."""

from typing import NamedTuple

from torch import Tensor

from hfgd.types import Grid


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


class UpsamplerSite(NamedTuple):
    """Where an upsampler stands: the widths of the three skips, the width out, its stride.

    ``strides``: of the skips, and of ``high`` as the last one.
    """

    skip_widths: tuple[int, ...]
    width: int
    stride: int
    grid: Grid
    strides: tuple[int, ...] = (4, 8, 16, 32)
