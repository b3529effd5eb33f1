"""timm's pyramids: any name of timm's with a four-level pyramid."""

from collections.abc import Mapping
from typing import Any

import timm
from timm.layers.format import Format
from torch import Tensor, nn

from hfgd.errors import HfgdError
from hfgd.model.backbones.base import Backbone, Colour, find_grid
from hfgd.model.backbones.timm_net import checkpoint_activations, make_net, undilated

SWINS = ("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr")
PYRAMIDS = {32: (4, 8, 16, 32), 16: (4, 8, 16, 16), 8: (4, 8, 8, 8)}


class TimmPyramid(Backbone):
    """A timm network as a pyramid; see Backbone.

    ``pretrained``: False for random weights, True for timm's, a path for a local file.
    ``output_stride``: 8 or 16 replaces the last strides by dilation, where timm offers it.
    ``multi_grid``: dilation factors of the three blocks of a ResNet's stage 4, (1, 2, 4) in the paper.
    ``bn_momentum``: for every batch norm in here, PyTorch's sense; None leaves timm's.
    ``mean``, ``std``: of the weights, where timm does not know them. ``options``: passed to timm's
    constructor as they are (``drop_path_rate``, say).
    Raises HfgdError for an unknown name, a network without the pyramid, unusable weights.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str = False,
        output_stride: int = 32,
        multi_grid: tuple[int, int, int] | None = None,
        bn_momentum: float | None = None,
        mean: Colour | None = None,
        std: Colour | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        net = _create(name, pretrained, output_stride, dict(options or {}))
        info: Any = net.feature_info
        strides: tuple[int, ...] = tuple(info.reduction())
        if strides != PYRAMIDS[output_stride]:
            if output_stride != 32:  # older timm leaves the option out of account
                raise undilated(name, output_stride)
            raise HfgdError(
                f"backbone '{name}' gives maps at strides {list(strides)}, and the model needs "
                f"{list(PYRAMIDS[output_stride])}; choose a network with a four-level pyramid, "
                "for example resnet50, mobilenetv2_100, convnext_tiny or swin_tiny_patch4_window7_224."
            )
        nhwc = getattr(net, "output_fmt", Format.NCHW) == Format.NHWC
        grid = find_grid(net, lambda x: _maps(net, x, nhwc), strides, name)
        trained: Any = net.pretrained_cfg  # what timm knows of the weights of this name
        super().__init__(
            tuple(info.channels()), strides, grid, mean or trained["mean"], std or trained["std"]
        )
        self.net, self.nhwc, self.name = net, nhwc, name
        if multi_grid is not None:
            _set_multi_grid(net, name, multi_grid, 32 // output_stride)
        if bn_momentum is not None:
            for module in net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.momentum = bn_momentum

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H', W') normalised → four maps (B, C_i, H'/s_i, W'/s_i)."""
        return _maps(self.net, image, self.nhwc)

    def checkpoint_activations(self) -> None:
        """Compute activations again in the backward pass; raises HfgdError where timm cannot."""
        checkpoint_activations(self.net, self.name)


def _maps(net: nn.Module, image: Tensor, nhwc: bool) -> list[Tensor]:
    maps: list[Tensor] = net(image)
    return [m.permute(0, 3, 1, 2).contiguous() for m in maps] if nhwc else maps


def _create(
    name: str, pretrained: bool | str, output_stride: int, options: dict[str, Any]
) -> nn.Module:
    if output_stride not in PYRAMIDS:
        raise HfgdError(f"output_stride is 32, 16 or 8, not {output_stride}.")
    if output_stride != 32:
        options["output_stride"] = output_stride
    if any(name.split(".")[0] in timm.list_models(module=module) for module in SWINS):
        # timm's Swin is built for one image size; this makes windows and shifts follow the input
        options = {"strict_img_size": False, "always_partition": True} | options
    maps = {"features_only": True, "out_indices": (-4, -3, -2, -1)}
    return make_net(name, pretrained, options, maps)


def _set_multi_grid(
    net: nn.Module, name: str, factors: tuple[int, int, int], dilation: int
) -> None:
    """Dilate the 3×3 convolutions in a ResNet's stage 4 by ``dilation`` times a factor a block.

    All blocks start from one ``dilation``: timm dilates the first block only half as much.
    """
    blocks = list(getattr(net, "layer4", ()))
    if len(blocks) != len(factors):
        raise HfgdError(
            f"multi_grid sets the three blocks of a ResNet's stage 4, and backbone '{name}' has "
            "no such stage; use model.backbone.multi_grid=null."
        )
    for block, factor in zip(blocks, factors, strict=True):
        for conv in (m for m in block.modules() if isinstance(m, nn.Conv2d)):
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (dilation * factor, dilation * factor)
