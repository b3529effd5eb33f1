"""``smp_…``: the decoders of segmentation_models_pytorch as upsamplers, under HFGM like any other.

They are built as that package builds them, but for three things. The encoder's output stands in the
place of the stride-32 map. Their layers are as wide as the class tokens, and they end at the finest
skip, stride 4 (DPT: 2), where that package goes on without skips to the image's size. Where widths
follow the backbone's (LinkNet), a CBR(D, 1) brings the result to D.

They double sizes blindly, so levels must be exact halves: maps of the corners grid (s·m + 1) are
continued at the right and the bottom by their last values, which is where that package would have seen
padding, and the result is cut. DPT reassembles maps of a plain ViT and is refused elsewhere.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfgd.errors import HfgdError
from hfgd.model.blocks import ConvBnRelu
from hfgd.model.encoders.ppm import pooled
from hfgd.model.parts import UpsamplerSite

LEVELS = (4, 8, 16, 32)
Parts = tuple[nn.Module, int]  # a decoder, and the width that it gives


def _fpn(channels: list[int], width: int) -> Parts:
    from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder

    if width % 32:
        raise HfgdError(f"upsampler 'smp_fpn' needs a width that is a multiple of 32, not {width}.")
    return FPNDecoder(channels, 5, width, width), width


def _unet(channels: list[int], width: int) -> Parts:
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

    return UnetDecoder(channels[1:], (width,) * 3, n_blocks=3), width


def _unetplusplus(channels: list[int], width: int) -> Parts:
    from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder

    decoder = UnetPlusPlusDecoder(channels[1:], (width,) * 4, n_blocks=4)
    decoder.blocks["x_0_3"] = nn.Identity()  # doubles the size once more, without a skip
    return decoder, width


def _manet(channels: list[int], width: int) -> Parts:
    from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder

    return MAnetDecoder(channels[1:], [width] * 3, n_blocks=3), width


def _linknet(channels: list[int], width: int) -> Parts:
    from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder

    return LinknetDecoder(channels[1:], n_blocks=3), channels[2]


def _pan(channels: list[int], width: int) -> Parts:
    from segmentation_models_pytorch.decoders.pan.decoder import PANDecoder

    return PANDecoder(channels, 5, width), width


def _segformer(channels: list[int], width: int) -> Parts:
    from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder

    return SegformerDecoder(channels, 5, width), width


def _upernet(channels: list[int], width: int) -> Parts:
    from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

    return UPerNetDecoder(channels, 5, width), width


SMP: dict[str, Callable[[list[int], int], Parts] | None] = {
    "smp_fpn": _fpn,
    "smp_unet": _unet,
    "smp_unetplusplus": _unetplusplus,
    "smp_manet": _manet,
    "smp_linknet": _linknet,
    "smp_pan": _pan,
    "smp_segformer": _segformer,
    "smp_upernet": _upernet,
    "smp_dpt": None,  # see SmpDPT
}
SHORT = ("smp_unet", "smp_unetplusplus", "smp_manet", "smp_linknet")  # without a map at stride 2
# sides of the coarsest map: one is halved three times, the other takes a norm over one channel of it
SMALLEST = {"smp_pan": 8, "smp_fpn": 2}


def make_smp(name: str, site: UpsamplerSite) -> nn.Module:
    """The decoder of a name; raises HfgdError where the package is missing or the maps do not suit."""
    try:
        import segmentation_models_pytorch  # noqa: F401
    except ImportError as error:
        raise HfgdError(
            f"upsampler '{name}' is segmentation_models_pytorch's, which is not installed; "
            "pip install 'hfgd[decoders]'."
        ) from error
    build = SMP[name]
    if build is None:
        return SmpDPT(site)
    if site.strides != LEVELS:
        raise HfgdError(
            f"upsampler '{name}' doubles maps at strides {list(LEVELS)}, and these are at "
            f"{list(site.strides)}; leave guide_stride and backbone.output_stride at 32 for it."
        )
    # of the image, at stride 2 (none), and our four levels
    decoder, found = build([3, 0, *site.skip_widths, site.width], site.width)
    return SmpDecoder(name, decoder, found, site.width)


class SmpDecoder(nn.Module):
    """Skips at strides 4, 8, 16 and high (B, D, h, w) at 32 → (B, D, H/4, W/4)."""

    def __init__(self, name: str, decoder: nn.Module, found: int, width: int) -> None:
        super().__init__()
        self.name = name
        self.decoder = with_our_pools(decoder)
        self.end = ConvBnRelu(found, width, 1) if found != width else nn.Identity()

    def forward(self, skips: list[Tensor], high: Tensor) -> Tensor:
        height, width = skips[0].shape[-2:]
        rows, columns = (_at_least(side, SMALLEST.get(self.name, 1)) for side in high.shape[-2:])
        levels = [*skips, high]
        maps = [
            _continued(x, rows * (32 // stride), columns * (32 // stride))
            for x, stride in zip(levels, LEVELS, strict=True)
        ]
        # placeholders for the image and stride 2, of which only sizes are read
        image = maps[0].new_empty(1, 0, 32 * rows, 32 * columns)
        half = maps[0].new_empty(1, 0, 16 * rows, 16 * columns)
        given = [half, *maps] if self.name in SHORT else [image, half, *maps]
        with_values = _run(self.name, self.decoder, given)
        fine: Tensor = self.end(with_values[..., :height, :width])
        return fine


class SmpDPT(nn.Module):
    """Three maps of a plain ViT as they are, and high → (B, D, H/2, W/2)."""

    def __init__(self, site: UpsamplerSite) -> None:
        super().__init__()
        from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder

        if site.strides[:3] != (16, 16, 16):
            raise HfgdError(
                "upsampler 'smp_dpt' reassembles the maps of a plain ViT with patches of 16 pixels, "
                f"and these are at strides {list(site.strides)}; choose a ViT as backbone, or smp_fpn."
            )
        self.decoder = DPTDecoder(
            (*site.skip_widths, site.width),
            site.strides,
            encoder_has_prefix_tokens=False,
            readout="ignore",
            fusion_channels=site.width,
        )

    def forward(self, skips: list[Tensor], high: Tensor) -> Tensor:
        fine: Tensor = self.decoder([*skips, high], [None] * 4)
        return fine


class AdaptivePool(nn.Module):
    """nn.AdaptiveAvgPool2d that exporters do not turn into tables for one size."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        return pooled(x, self.bins)


def with_our_pools(module: nn.Module) -> nn.Module:
    """The module with Pool in place of its adaptive pools of several bins."""
    for parent in module.modules():
        for name, child in parent.named_children():
            bins = child.output_size if isinstance(child, nn.AdaptiveAvgPool2d) else 1
            if isinstance(bins, int) and bins > 1:
                setattr(parent, name, AdaptivePool(bins))
    return module


def _run(name: str, decoder: nn.Module, maps: list[Tensor]) -> Tensor:
    try:
        result: Tensor = decoder(maps)
    except ValueError as error:  # batch norm's, of one value a channel
        if "more than 1 value" not in str(error):
            raise
        raise HfgdError(
            f"upsampler '{name}' pools an image to one value, which its batch norm cannot train on; "
            "give it two images at once (train.batch_size)."
        ) from error
    return result


def _at_least(side: Any, least: int) -> Any:
    return side if least == 1 else torch.sym_max(side, least)


def _continued(x: Tensor, rows: Any, columns: Any) -> Tensor:
    """(B, C, h, w) → (B, C, rows, columns), repeating the last row and column."""
    padding = (0, columns - x.shape[-1], 0, rows - x.shape[-2])
    return F.pad(x, padding, mode="replicate")
