"""The semantic branches of SemanticFPN [23]: from a pyramid to one fine feature.

Per level 1/1/2/3 × [CBR(D, 3) → resize one level finer]; the sum of the four → CBR(D, 1). At
stride 2 every branch gets one more [CBR(D, 3) → resize] (paper §3.3).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from hfgd.errors import HfgdError
from hfgd.model.blocks import ConvBnRelu
from hfgd.resample import resize
from hfgd.types import Grid, Size


class SemanticBranches(nn.Module):
    """A pyramid fine to coarse, (B, D, h_i, w_i) from stride 4 on → (B, D, H/stride, W/stride)."""

    def __init__(self, levels: int, width: int, grid: Grid, stride: int = 4) -> None:
        super().__init__()
        if stride not in (2, 4):
            raise HfgdError(f"the upsampler's stride is 4 or 2, not {stride}.")
        self.grid = grid
        self.extra = 1 if stride == 2 else 0  # levels finer than the finest of the pyramid
        self.branches = nn.ModuleList(
            nn.ModuleList(ConvBnRelu(width, width, 3) for _ in range(max(1, level) + self.extra))
            for level in range(levels)
        )
        self.end = ConvBnRelu(width, width, 1)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        sizes: list[Size] = [(x.shape[-2], x.shape[-1]) for x in pyramid]
        if self.extra:
            sizes.insert(0, self.grid.finer(sizes[0]))
        total = self._climb(0, pyramid[0], sizes)
        for level, x in enumerate(pyramid[1:], start=1):
            total = total + self._climb(level, x, sizes)
        fine: Tensor = self.end(total)
        return fine

    def _climb(self, level: int, x: Tensor, sizes: list[Size]) -> Tensor:
        """One branch: each convolution is followed by a resize one level finer, to the finest.

        The finest level has one convolution more than it has levels to climb; its first stays.
        """
        convs = self.branches[level]
        assert isinstance(convs, nn.ModuleList)
        position = level + self.extra
        for remaining, conv in zip(range(len(convs), 0, -1), convs, strict=True):
            if remaining <= position:
                position -= 1
            x = resize(conv(x), sizes[position], self.grid)
        return x


class SFPN(nn.Module):
    """Skips at strides 4, 8, 16 and high (B, D, h, w) at 32 → (B, D, H/stride, W/stride)."""

    def __init__(
        self,
        skip_widths: Sequence[int],
        width: int,
        grid: Grid,
        lateral_kernel: int = 1,
        stride: int = 4,
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(
            ConvBnRelu(skip_width, width, lateral_kernel) for skip_width in skip_widths
        )
        self.semantic = SemanticBranches(len(skip_widths) + 1, width, grid, stride)
        self.grid = grid

    def forward(self, skips: list[Tensor], high: Tensor) -> Tensor:
        fine: Tensor = self.semantic(top_down(self.laterals, skips, high, self.grid))
        return fine


def top_down(
    laterals: nn.ModuleList, skips: list[Tensor], high: Tensor, grid: Grid
) -> list[Tensor]:
    """FPN's path: resize and add, from ``high`` down to the finest skip; fine to coarse."""
    pyramid = [high]
    for lateral, skip in zip(reversed(laterals), reversed(skips), strict=True):
        size = (skip.shape[-2], skip.shape[-1])
        pyramid.append(lateral(skip) + resize(pyramid[-1], size, grid))
    return pyramid[::-1]
