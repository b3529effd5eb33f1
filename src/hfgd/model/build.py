"""From a spec, or a function of one's own, to a network: the only place that reads a spec."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hfgd.code import import_function
from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.model.aux_fcn import AuxFCN
from hfgd.model.axial_attention import AxialAttention
from hfgd.model.backbones import make_backbone
from hfgd.model.backbones.timm_pyramid import without_weights
from hfgd.model.blocks import init_new_layers
from hfgd.model.config import BackboneSpec, Builder, ModelConfig, ModelSpec
from hfgd.model.encoders import ENCODERS, EncoderSite
from hfgd.model.hfgm import HFGM, ClassTokens
from hfgd.model.network import Network
from hfgd.model.segmenter import Segmenter
from hfgd.model.upsamplers import UpsamplerSite, make_upsampler

N = TypeVar("N", bound=Network)
_BUILDERS: dict[str, Callable[..., Network]] = {}  # those that this process has defined or imported


def build(spec: ModelSpec, classes: ClassSet) -> Segmenter:
    """The network of a spec for these classes. Raises HfgdError where the parts do not fit."""
    backbone = make_backbone(**dict(_backbone(spec)))
    *skip_widths, top_width = backbone.widths
    encoder = ENCODERS[spec.encoder](
        EncoderSite(top_width, spec.width, backbone.strides[-1], len(classes), backbone.grid)
    )
    upsampler = make_upsampler(
        spec.upsampler,
        UpsamplerSite(
            tuple(skip_widths), spec.width, spec.stride, backbone.grid, tuple(backbone.strides)
        ),
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
    # the weights will lie beside the config: nothing is fetched, and no path of a machine is told
    model.config = ModelConfig.of(classes, model=spec.with_backbone(pretrained=False))
    return model


def _backbone(spec: ModelSpec) -> BackboneSpec:
    """The backbone with the stride at which the guide is to read."""
    given, guide = spec.backbone.output_stride, spec.guide_stride
    if guide is None or guide == given:
        return spec.backbone
    if given != 32:
        raise HfgdError(
            f"guide_stride {guide} and backbone.output_stride {given} name the same stride, of the map "
            "that the guide reads; give one of them."
        )
    return spec.backbone.model_copy(update={"output_stride": guide})


def builder(make: Callable[..., N]) -> Callable[..., N]:
    """Marks a function ``make(classes, **arguments) -> Network`` that a saved model may name.

    The network that it makes remembers 'module:function' and its arguments (JSON values), so that
    ``hfgd.load`` can build it again; code is never stored, and only marked functions are called.
    """
    name = f"{make.__module__}:{make.__qualname__}"
    # what stands in a script or inside another function cannot be imported again
    importable = make.__module__ != "__main__" and make.__qualname__.isidentifier()

    @functools.wraps(make)
    def made(classes: ClassSet, **arguments: Any) -> N:
        network = make(classes, **arguments)
        if importable:
            network.config = ModelConfig.of(
                classes, builder=Builder(name=name, arguments=arguments)
            )
        return network

    made.__hfgd_builder__ = True  # type: ignore[attr-defined]
    if importable:
        _BUILDERS[name] = made
    return made


def rebuild(
    config: ModelConfig, classes: ClassSet | None = None, code: str | Path | None = None
) -> Network:
    """The network that a config describes, with random weights; ``classes``: others than its own.

    ``code``: see ``find_builder``. Nothing is fetched, and no weights are read.
    Raises HfgdError where the config names no way, or a function that is not there or not marked.
    """
    classes = classes or config.class_set
    if config.model is not None:
        spec = config.model.with_backbone(mean=config.mean, std=config.std)
        with without_weights():
            return build(spec, classes)
    if config.builder is None:
        raise HfgdError(
            f"'{config.name}' was put together in Python without a builder; load it with "
            "hfgd.load(path, network=...), or mark a function that makes it with @hfgd.builder."
        )
    with without_weights():
        return find_builder(config.builder.name, code)(classes, **config.builder.arguments)


def find_builder(name: str, code: str | Path | None = None) -> Callable[..., Network]:
    """The marked function 'package.module:function'.

    One that this process has defined or imported by itself is taken. ``code``: a folder that others
    may be imported from. Raises HfgdError where there is none, and where it is not marked.
    """
    if name in _BUILDERS:
        return _BUILDERS[name]
    found: Callable[..., Network] = import_function(name, code)
    if getattr(found, "__hfgd_builder__", None) is not True:
        raise HfgdError(f"'{name}' is not marked as a builder; put @hfgd.builder above it.")
    return found
