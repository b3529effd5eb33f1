"""From a spec to a network: the only place that reads one."""

from hfgd.data.classes import ClassSet
from hfgd.model.axial_attention import AxialAttention
from hfgd.model.backbone import Backbone
from hfgd.model.blocks import init_new_layers
from hfgd.model.class_tokens import ClassTokens
from hfgd.model.encoders import ENCODERS, EncoderSite
from hfgd.model.hfgm import HFGM
from hfgd.model.segmenter import Segmenter
from hfgd.model.spec import ModelSpec
from hfgd.model.upsamplers import UPSAMPLERS, UpsamplerSite


def build(spec: ModelSpec, classes: ClassSet) -> Segmenter:
    """The network of a spec for these classes. Raises HfgdError where the parts do not fit."""
    backbone = Backbone(**dict(spec.backbone))
    *skip_widths, top_width = backbone.widths
    encoder = ENCODERS[spec.encoder](
        EncoderSite(top_width, spec.width, backbone.strides[-1], len(classes), backbone.grid)
    )
    upsampler = UPSAMPLERS[spec.upsampler](
        UpsamplerSite(tuple(skip_widths), spec.width, spec.stride, backbone.grid)
    )
    axial = AxialAttention(spec.width) if spec.axial_attention else None
    tokens = ClassTokens(len(classes), spec.width)
    hfgm = HFGM(upsampler, tokens, axial, spec.guidance)
    for part in (encoder, hfgm):
        init_new_layers(part)
    return Segmenter(backbone, encoder, hfgm, classes)
