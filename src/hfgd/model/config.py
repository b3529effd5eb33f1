"""What a model is made of, as plain checked values: the ``model`` part of a recipe.

Names are checked here against lists, so that a misspelt one is refused before PyTorch is imported.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from hfgd.data.classes import ClassSet, Rgb
from hfgd.errors import HfgdError, unknown
from hfgd.types import Branch, Line, Side, Spec

# the keys of encoders.ENCODERS, upsamplers.smp.SMP and upsamplers.UPSAMPLERS; a test compares them
ENCODER_NAMES = ("identity", "aspp", "ppm", "ocr", "sa", "sa_car", "cae")
SMP_NAMES = (
    "smp_fpn",
    "smp_unet",
    "smp_unetplusplus",
    "smp_manet",
    "smp_linknet",
    "smp_pan",
    "smp_segformer",
    "smp_upernet",
    "smp_dpt",
)
UPSAMPLER_NAMES = ("none", "sfpn", "u_sfpn", "fapn", "upernet", "deeplabv3plus", *SMP_NAMES)


@dataclass(frozen=True)
class Guidance:
    """Where the fine loss may flow (paper §3.1).

    ``share_tokens``: the guiding branch classifies the high-level feature with the tokens.
    ``stop_tokens``: the fine loss does not reach the tokens.
    ``stop_features``: the fine loss does not reach backbone and encoder; all inputs of the
    upsampler, the encoder's output included, are detached.
    """

    share_tokens: bool = False
    stop_tokens: bool = False
    stop_features: bool = False

    def __post_init__(self) -> None:
        if not self.share_tokens and (self.stop_tokens or self.stop_features):
            raise HfgdError(
                "guidance.stop_tokens and guidance.stop_features need guidance.share_tokens: "
                "without a guiding branch nothing would train what they protect; "
                "set share_tokens: true or leave all three false."
            )


NO_GUIDANCE = Guidance()
GUIDANCE = Guidance(share_tokens=True, stop_tokens=True, stop_features=True)
NO_STOP_GRADIENT = Guidance(share_tokens=True)  # §5.2: "removing all stop-grad operations"


def _known(kind: str, names: Iterable[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(str(unknown(kind, name, names)))
        return name

    return AfterValidator(check)


def _sane(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse numbers that no network has: a foreign file could ask for all memory, or all time."""
    rest: list[tuple[str, Any]] = list(options.items())
    while rest:
        key, value = rest.pop()
        if isinstance(value, dict):
            rest += value.items()
        elif isinstance(value, list | tuple):
            rest += [(key, item) for item in value]
        elif isinstance(value, int | float) and not abs(value) <= _most(key):
            raise ValueError(f"{key} is larger than {_most(key):,}, which no network has")
    return options


def _most(key: str) -> int:
    """The largest number of an option: layers are built one by one."""
    return MOST_LAYERS if any(word in key for word in ("depth", "layer", "block")) else MOST_WIDE


MOST_LAYERS, MOST_WIDE = 256, 16_384
Channel = Annotated[float, Field(ge=-1000, le=1000)]  # of a mean, in units of the image's values
Dilation = Annotated[int, Field(gt=0, le=64)]
Scale = Annotated[float, Field(gt=1e-6, le=1000)]  # of a standard deviation: divided by


class BackboneSpec(Spec):
    """See ``hfgd.model.backbones``: TimmPyramid and, for plain ViTs, VitPyramid take exactly these."""

    name: str = "resnet50"
    pretrained: bool | str = False
    output_stride: Literal[8, 16, 32] = 32
    multi_grid: tuple[Dilation, Dilation, Dilation] | None = None
    skip_blocks: tuple[int, int, int] | None = None
    bn_momentum: float | None = Field(None, gt=0, le=1)
    mean: tuple[Channel, Channel, Channel] | None = None
    std: tuple[Scale, Scale, Scale] | None = None
    options: Annotated[dict[str, Any], AfterValidator(_sane)] = Field(default_factory=dict)


class ModelSpec(Spec):
    """backbone × encoder × upsampler × guidance × axial attention; ``width`` is D.

    ``guide_stride``: of the map that encoder and guide read, the backbone's coarsest one unless given;
    16 where the network has it (a ViT with patches of 16 pixels; what timm can dilate).
    ``aux_fcn``: the auxiliary FCN of §5.1, trained together with the backbone or stopped before it.
    """

    backbone: BackboneSpec = BackboneSpec()
    encoder: Annotated[str, _known("encoder", ENCODER_NAMES)] = "identity"
    upsampler: Annotated[str, _known("upsampler", UPSAMPLER_NAMES)] = "sfpn"
    stride: Literal[2, 4] = 4
    guide_stride: Literal[16, 32] | None = None
    width: int = Field(256, gt=0, le=4096, multiple_of=4)
    guidance: Guidance = NO_GUIDANCE
    axial_attention: bool = False
    aux_fcn: Literal["none", "joint", "stopped"] = "none"

    def with_backbone(self, **changes: Any) -> "ModelSpec":
        """The same model with some values of its backbone changed."""
        return self.model_copy(update={"backbone": self.backbone.model_copy(update=changes)})


# ---- saved models --------------------------------------------------------------------------------


FORMAT = 2  # 1: the whole recipe stood in the file


class Builder(Spec):
    """A function that makes a network: ``name`` is 'package.module:function'; see ``builder``."""

    name: str = Field(pattern=r"^\w+(\.\w+)*:\w+$")
    arguments: dict[str, Any] = Field(default_factory=dict)


class ModelConfig(Spec):
    """Everything but the weights. One of ``model`` and ``builder`` says how to build the network;
    neither, where it was put together by hand.

    ``mean`` and ``std`` are the backbone's, of RGB in [0, 1]. ``name``: of the recipe it was trained
    by; ``crop``: its training crop, the window of the protocol 'slide'; ``branch``: whose logits
    are the answer. ``facts``: of the training (iteration, scores). ``licence_of_backbone``: of the
    backbone's pre-trained weights, as timm tells it, whether or not the training began with them.
    """

    format: int = FORMAT
    name: Line = "model"
    model: ModelSpec | None = None
    builder: Builder | None = None
    classes: tuple[Line, ...]
    palette: tuple[Rgb, ...]
    mean: tuple[Channel, Channel, Channel] | None = None
    std: tuple[Scale, Scale, Scale] | None = None
    crop: tuple[Side, Side] = (513, 513)
    branch: Branch = "fine"
    licence_of_backbone: Line | None = None
    facts: dict[str, Any] = Field(default_factory=dict)

    @property
    def class_set(self) -> ClassSet:
        """The classes with their colours."""
        return ClassSet.of(self.classes, self.palette)

    @classmethod
    def of(cls, classes: ClassSet, **values: Any) -> "ModelConfig":
        """A config for these classes."""
        return cls(classes=classes.names, palette=classes.palette, **values)
