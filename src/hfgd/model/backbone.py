"""timm's pyramids under one contract: RGB in [0, 1] in, four maps at strides 4, 8, 16, 32 out.

The adapter normalises and pads, so that the network alone is complete: a saved model needs no
preprocessing beside it. Any timm name with a four-level pyramid works.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers.format import Format
from torch import Tensor, nn

from hfgd.errors import HfgdError, unknown
from hfgd.geometry import Frame, Grid
from hfgd.progress import say

PYRAMIDS = {32: (4, 8, 16, 32), 16: (4, 8, 16, 16), 8: (4, 8, 8, 8)}

Colour = tuple[float, float, float]


class Backbone(nn.Module):
    """A timm network as a pyramid.

    ``widths`` and ``strides`` list the four maps, fine to coarse; ``grid`` says how they lie over
    the image; ``mean`` and ``std`` are what the weights were trained with (RGB, of [0, 1]).

    ``pretrained``: False for random weights, True for timm's, a path for a local file.
    ``output_stride``: 8 or 16 replaces the last strides by dilation, where timm offers it.
    ``multi_grid``: dilation factors of the three blocks of a ResNet's stage 4, (1, 2, 4) in the paper.
    ``bn_momentum``: for every batch norm in here, PyTorch's sense; None leaves timm's.
    ``options``: passed to timm's constructor as they are (``drop_path_rate``, say).
    Raises HfgdError for an unknown name, a network without the pyramid, unusable weights.
    """

    mean: Tensor
    std: Tensor

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
        super().__init__()
        self.net = _create(name, pretrained, output_stride, dict(options or {}))
        info: Any = self.net.feature_info
        self.widths: tuple[int, ...] = tuple(info.channels())
        self.strides: tuple[int, ...] = tuple(info.reduction())
        if self.strides != PYRAMIDS[output_stride]:
            if output_stride != 32:  # older timm leaves the option out of account
                raise _undilated(name, output_stride)
            raise HfgdError(
                f"backbone '{name}' gives maps at strides {list(self.strides)}, and the model needs "
                f"{list(PYRAMIDS[output_stride])}; choose a network with a four-level pyramid, "
                "for example resnet50, mobilenetv2_100, convnext_tiny or swin_tiny_patch4_window7_224."
            )
        self.grid = _grid(self.net)
        self.channels_last = getattr(self.net, "output_fmt", Format.NCHW) == Format.NHWC
        if multi_grid is not None:
            _set_multi_grid(self.net, name, multi_grid)
        if bn_momentum is not None:
            for module in self.net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.momentum = bn_momentum
        trained: Any = self.net.pretrained_cfg  # what timm knows of the weights of this name
        self.register_buffer("mean", _colour(mean or trained["mean"]), persistent=False)
        self.register_buffer("std", _colour(std or trained["std"]), persistent=False)

    def frame(self, image: Tensor) -> Frame:
        """How a batch (B, 3, H, W) will lie in the network."""
        size = (image.shape[-2], image.shape[-1])
        return Frame(size, self.grid.padded(size), self.grid)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in [0, 1] → four maps (B, C_i, H'/s_i, W'/s_i) of the padded image."""
        (height, width), (padded_height, padded_width), _ = self.frame(image)
        x = (image - self.mean) / self.std
        x = F.pad(x, (0, padded_width - width, 0, padded_height - height))
        maps: list[Tensor] = self.net(x)
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        return maps


def _colour(values: Colour) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(3, 1, 1)


def _grid(net: nn.Module) -> Grid:
    """Cells where any downsampling convolution is a patch convolution (kernel = stride)."""
    convs = (m for m in net.modules() if isinstance(m, nn.Conv2d))
    patches = any(max(c.stride) > 1 and c.kernel_size == c.stride for c in convs)
    return Grid.CELLS if patches else Grid.CORNERS


def _create(
    name: str, pretrained: bool | str, output_stride: int, options: dict[str, Any]
) -> nn.Module:
    if not timm.is_model(name):
        raise unknown("backbone", name, timm.list_models())
    if output_stride not in PYRAMIDS:
        raise HfgdError(f"output_stride is 32, 16 or 8, not {output_stride}.")
    if output_stride != 32:
        options["output_stride"] = output_stride
    if name.split(".")[0] in timm.list_models(module="swin_transformer"):
        # timm's Swin is built for one image size; this makes windows and shifts follow the input
        options = {"strict_img_size": False, "always_partition": True} | options
    overlay = None
    if pretrained is True:
        say(f"pre-trained weights of '{name}': from the local cache, or downloaded once")
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; see _explain
    if isinstance(pretrained, str):
        overlay = {"state_dict": _read_weights(Path(pretrained), name, options)}
    try:
        return timm.create_model(
            name,
            features_only=True,
            out_indices=(-4, -3, -2, -1),
            pretrained=bool(pretrained),
            pretrained_cfg_overlay=overlay,
            **options,
        )
    except Exception as error:
        raise _explain(error, name, pretrained, output_stride, options) from error


def _explain(
    error: Exception, name: str, pretrained: bool | str, output_stride: int, options: dict[str, Any]
) -> HfgdError:
    """One sentence for what timm raised."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if pretrained is True and not isinstance(error, TypeError):
        return HfgdError(
            f"the pre-trained weights of '{name}' are not in the local cache and could not be "
            f"downloaded ({type(error).__name__}); connect once, or give a local file with "
            "model.backbone.pretrained=PATH, or start from random weights with "
            "model.backbone.pretrained=false."
        )
    if output_stride != 32 and "output_stride" in options:
        return _undilated(name, output_stride)
    return HfgdError(f"backbone '{name}' could not be built as a pyramid: {reason}")


def _undilated(name: str, output_stride: int) -> HfgdError:
    return HfgdError(
        f"backbone '{name}' cannot be dilated to output stride {output_stride}; "
        "use output_stride: 32 with an upsampler, or a ResNet, MobileNet or ConvNeXt."
    )


def _read_weights(path: Path, name: str, options: dict[str, Any]) -> dict[str, Tensor]:
    """A local state dict, checked tensor by tensor against the network (its classifier aside)."""
    if not path.is_file():
        raise HfgdError(f"pre-trained weights: there is no file '{path}'.")
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            weights = weights.get("state_dict", weights)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, AttributeError) as error:
        raise HfgdError(
            f"pre-trained weights: '{path}' cannot be read as a safetensors file or a PyTorch "
            f"state dict ({type(error).__name__}); it may be truncated."
        ) from error
    except Exception as error:  # torch raises pickle's errors for anything but plain tensors
        raise HfgdError(
            f"pre-trained weights: '{path}' holds more than tensors and was not loaded; "
            "save the bare state dict, best as safetensors."
        ) from error
    with torch.device("meta"):
        whole = timm.create_model(name, **options)
    config: Any = whole.pretrained_cfg
    classifier = config.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    expected = {
        key: value.shape
        for key, value in whole.state_dict().items()
        if not key.startswith(heads or ("\0",)) and not key.endswith("num_batches_tracked")
    }
    missing = sorted(expected.keys() - weights.keys())
    if missing:
        raise HfgdError(
            f"pre-trained weights: '{path}' lacks {len(missing)} of the {len(expected)} tensors "
            f"of '{name}', '{missing[0]}' first; is it the state dict of another network?"
        )
    for key, shape in expected.items():
        if weights[key].shape != shape and "relative_position" not in key:
            raise HfgdError(
                f"pre-trained weights: '{key}' in '{path}' has shape {list(weights[key].shape)}, "
                f"and '{name}' needs {list(shape)}."
            )
    # what the pyramid leaves out (the classifier, the last convolution) is no news
    logging.getLogger("timm.models._builder").setLevel(logging.ERROR)
    return dict(weights)


def _set_multi_grid(net: nn.Module, name: str, factors: tuple[int, int, int]) -> None:
    """Multiply the dilation of the 3×3 convolutions in a ResNet's stage 4, block by block."""
    blocks = list(getattr(net, "layer4", ()))
    if len(blocks) != len(factors):
        raise HfgdError(
            f"multi_grid sets the three blocks of a ResNet's stage 4, and backbone '{name}' has "
            "no such stage; leave model.backbone.multi_grid out."
        )
    for block, factor in zip(blocks, factors, strict=True):
        for conv in (m for m in block.modules() if isinstance(m, nn.Conv2d)):
            if conv.kernel_size == (3, 3):
                dilation = conv.dilation[0] * factor
                conv.dilation = conv.padding = (dilation, dilation)
