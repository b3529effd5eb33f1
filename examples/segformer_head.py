"""HFGM around the head of transformers' SegFormer: a network that hfgd trains, saves and exports.

With ``--code FOLDER``, the folder of this file, a recipe file names it by

    network: {name: "segformer_head:guided_segformer", arguments: {backbone: convnext_tiny}}

and a saved model does the same: the file is found again, code is never stored. Needs transformers.
"""

from typing import Any

from torch import Tensor, nn
from transformers import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

import hfgd
from hfgd.data.classes import ClassSet
from hfgd.model import GUIDANCE, HFGM, ClassTokens, Segmenter, lifted
from hfgd.model.axial_attention import AxialAttention
from hfgd.model.backbones import make_backbone
from hfgd.model.blocks import init_new_layers
from hfgd.model.encoders.identity import Identity


class SegformerUpsampler(nn.Module):
    """Skips at strides 4, 8, 16 and high (B, D, h, w) → (B, D, H/4, W/4).

    The head's classifier becomes a projection to D, which the class tokens classify in its place.
    """

    def __init__(self, skip_widths: tuple[int, ...], width: int) -> None:
        super().__init__()
        config = SegformerConfig(
            hidden_sizes=[*skip_widths, width],
            decoder_hidden_size=width,
            num_labels=width,
        )
        self.head = SegformerDecodeHead(config)

    def forward(self, skips: list[Tensor], high: Tensor) -> Tensor:
        fine: Tensor = self.head([*skips, high])
        return fine


@hfgd.builder
def guided_segformer(
    classes: ClassSet,
    backbone: str = "convnext_tiny",
    width: int = 256,
    pretrained: bool = False,
    **options: Any,
) -> Segmenter:
    """SegFormer's head under HFGM on any of timm's pyramids and plain ViTs.

    ``pretrained``: timm's weights to begin with; they are not fetched again when a model is loaded.
    """
    pyramid = make_backbone(name=backbone, pretrained=pretrained, options=options)
    upsampler = lifted(pyramid, lambda skip_widths: SegformerUpsampler(skip_widths, width))
    tokens = ClassTokens(len(classes), width)
    hfgm = HFGM(upsampler, tokens, AxialAttention(width), GUIDANCE)
    encoder = Identity(pyramid.widths[-1], width)
    init_new_layers(encoder)
    init_new_layers(hfgm)
    return Segmenter(pyramid, encoder, hfgm, classes)
