"""From maps of one stride to skips at 4, 8 and 16: ViTDet's simple pyramid, before an upsampler.

It stands with the upsampler and not in the backbone: its layers are new, so under guidance they learn
from the fine loss, behind the stop-gradient, at the head's rate and also beside a frozen backbone.
"""

from collections.abc import Sequence

from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

STRIDES = (4, 8, 16)  # what upsamplers expect


class Finer(nn.Sequential):
    """(B, C, h, w) → (B, C', f·h, f·w) for f = 2, 4, 8: a transposed convolution for each doubling.

    Each doubles the size and halves the channels, down to 32; layer norm and GELU between two of them.
    """

    def __init__(self, in_width: int, factor: int) -> None:
        layers: list[nn.Module] = []
        width = in_width
        for _ in range(factor.bit_length() - 1):
            if layers:
                layers += [LayerNorm2d(width), nn.GELU()]
            narrower = max(width // 2, min(width, 32))
            layers.append(nn.ConvTranspose2d(width, narrower, 2, 2))
            width = narrower
        super().__init__(*layers)
        self.width = width


class Lifted(nn.Module):
    """An upsampler that sees skips at strides 4, 8 and 16 where the backbone has coarser ones.

    ``upsampler`` is one for ``skip_widths``, see ``lift``; (skips, high) → its feature.
    """

    def __init__(self, levels: nn.ModuleList, upsampler: nn.Module) -> None:
        super().__init__()
        self.levels, self.upsampler = levels, upsampler

    def forward(self, skips: list[Tensor], high: Tensor) -> Tensor:
        finer = [level(skip) for level, skip in zip(self.levels, skips, strict=True)]
        fine: Tensor = self.upsampler(finer, high)
        return fine


def lift(
    widths: Sequence[int], strides: Sequence[int], read: int = len(STRIDES)
) -> tuple[nn.ModuleList, tuple[int, ...]]:
    """The layers that bring skips of these widths and strides to 4, 8 and 16, and the widths then.

    ``read``: how many of them, from the finest on, are read at all; the others stay as they are.
    """
    levels: list[nn.Module] = []
    found = []
    for i, (width, stride, wanted) in enumerate(zip(widths, strides, STRIDES, strict=True)):
        level: nn.Module = nn.Identity()
        if i < read and stride > wanted:
            level = Finer(width, stride // wanted)
        elif i < read and stride < wanted:  # patches of 8 pixels
            level = nn.MaxPool2d(wanted // stride)
        levels.append(level)
        found.append(level.width if isinstance(level, Finer) else width)
    return nn.ModuleList(levels), tuple(found)


def is_coarse(strides: Sequence[int]) -> bool:
    """Whether skips of these strides need the layers above."""
    return any(stride > wanted for stride, wanted in zip(strides, STRIDES, strict=False))
