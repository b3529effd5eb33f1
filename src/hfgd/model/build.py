"""From a spec to a network: the only place that reads one."""

from hfgd.data.classes import ClassSet
from hfgd.model.aux_fcn import AuxFCN
from hfgd.model.axial_attention import AxialAttention
from hfgd.model.backbone import Backbone
from hfgd.model.blocks import init_new_layers
from hfgd.model.class_tokens import ClassTokens
from hfgd.model.encoders import ENCODERS, EncoderSite
from hfgd.model.hfgm import HFGM
from hfgd.model.segmenter import Segmenter
from hfgd.model.spec import ModelSpec
from hfgd.model.upsamplers import UpsamplerSite, make_upsampler


def build(spec: ModelSpec, classes: ClassSet) -> Segmenter:
    """The network of a spec for these classes. Raises HfgdError where the parts do not fit."""
    backbone = Backbone(**dict(spec.backbone))
    *skip_widths, top_width = backbone.widths
    encoder = ENCODERS[spec.encoder](
        EncoderSite(top_width, spec.width, backbone.strides[-1], len(classes), backbone.grid)
    )
    upsampler = make_upsampler(
        spec.upsampler, UpsamplerSite(tuple(skip_widths), spec.width, spec.stride, backbone.grid)
    )
    axial = AxialAttention(spec.width) if spec.axial_attention else None
    tokens = ClassTokens(len(classes), spec.width)
    hfgm = HFGM(upsampler, tokens, axial, spec.guidance)
    aux_fcn = None
    if spec.aux_fcn != "none":
        aux_fcn = AuxFCN(top_width, spec.width, len(classes), stopped=spec.aux_fcn == "stopped")
    model = Segmenter(backbone, encoder, hfgm, classes, aux_fcn)
    for name, part in model.named_children():
        if name != "backbone":
            init_new_layers(part)
    return model
