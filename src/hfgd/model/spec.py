"""What a model is made of, as plain checked values: the ``model`` part of a recipe."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from hfgd.errors import unknown
from hfgd.model.encoders import ENCODERS
from hfgd.model.hfgm import NO_GUIDANCE, Guidance
from hfgd.model.upsamplers import UPSAMPLERS
from hfgd.values import Spec


def _known(kind: str, names: dict[str, Any]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(str(unknown(kind, name, names)))
        return name

    return AfterValidator(check)


class BackboneSpec(Spec):
    """See ``hfgd.model.backbones``: TimmPyramid and, for plain ViTs, VitPyramid take exactly these."""

    name: str = "resnet50"
    pretrained: bool | str = False
    output_stride: Literal[8, 16, 32] = 32
    multi_grid: tuple[int, int, int] | None = None
    skip_blocks: tuple[int, int, int] | None = None
    bn_momentum: float | None = Field(None, gt=0, le=1)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class ModelSpec(Spec):
    """backbone × encoder × upsampler × guidance × axial attention; ``width`` is D.

    ``guide_stride``: of the map that encoder and guide read, the backbone's coarsest one unless given;
    16 where the network has it (a ViT with patches of 16 pixels; what timm can dilate).
    ``aux_fcn``: the auxiliary FCN of §5.1, trained together with the backbone or stopped before it.
    """

    backbone: BackboneSpec = BackboneSpec()
    encoder: Annotated[str, _known("encoder", ENCODERS)] = "identity"
    upsampler: Annotated[str, _known("upsampler", UPSAMPLERS)] = "sfpn"
    stride: Literal[2, 4] = 4
    guide_stride: Literal[16, 32] | None = None
    width: int = Field(256, gt=0, multiple_of=4)
    guidance: Guidance = NO_GUIDANCE
    axial_attention: bool = False
    aux_fcn: Literal["none", "joint", "stopped"] = "none"

    def with_backbone(self, **changes: Any) -> "ModelSpec":
        """The same model with some values of its backbone changed."""
        return self.model_copy(update={"backbone": self.backbone.model_copy(update=changes)})
