"""``sfpn`` and ``u_sfpn``: SemanticFPN [23] and Ultra SemanticFPN (paper §3.3, App. A, Fig. 5).

SemanticFPN: laterals CBR(D, 1) on strides 4, 8, 16; the encoder's output enters at 32 as it is;
top-down resize and add, without a smoothing convolution; per level 1/1/2/3 × [CBR(D, 3) →
resize one level finer]; the sum of the four → CBR(D, 1).
U-SFPN: laterals CBR(D, 3); at stride 2 every branch gets one more [CBR(D, 3) → resize]. The
paper's stride 2 uses no stride-2 feature of the backbone, and neither does this.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from hfgd.errors import HfgdError
from hfgd.geometry import Grid, Size
from hfgd.model.blocks import ConvBnRelu


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
        if stride not in (2, 4):
            raise HfgdError(f"the upsampler's stride is 4 or 2, not {stride}.")
        self.grid = grid
        self.extra = 1 if stride == 2 else 0  # levels finer than the finest skip
        self.laterals = nn.ModuleList(
            ConvBnRelu(skip_width, width, lateral_kernel) for skip_width in skip_widths
        )
        levels = len(skip_widths) + 1
        self.branches = nn.ModuleList(
            nn.ModuleList(ConvBnRelu(width, width, 3) for _ in range(max(1, level) + self.extra))
            for level in range(levels)
        )
        self.end = ConvBnRelu(width, width, 1)

    def forward(self, skips: list[Tensor], high: Tensor) -> Tensor:
        pyramid = self._top_down(skips, high)
        sizes: list[Size] = [(x.shape[-2], x.shape[-1]) for x in pyramid]
        if self.extra:
            sizes.insert(0, self.grid.finer(sizes[0]))
        total = self._climb(0, pyramid[0], sizes)
        for level, x in enumerate(pyramid[1:], start=1):
            total = total + self._climb(level, x, sizes)
        return self.end(total)  # type: ignore[no-any-return]

    def _top_down(self, skips: list[Tensor], high: Tensor) -> list[Tensor]:
        pyramid = [high]
        for lateral, skip in zip(reversed(self.laterals), reversed(skips), strict=True):
            size = (skip.shape[-2], skip.shape[-1])
            pyramid.append(lateral(skip) + self.grid.resize(pyramid[-1], size))
        return pyramid[::-1]  # fine to coarse

    def _climb(self, level: int, x: Tensor, sizes: list[Size]) -> Tensor:
        """One branch: each convolution is followed by a resize one level finer, to the finest.

        The finest skip has one convolution more than it has levels to climb, so its first stays.
        """
        convs = self.branches[level]
        assert isinstance(convs, nn.ModuleList)
        position = level + self.extra
        for remaining, conv in zip(range(len(convs), 0, -1), convs, strict=True):
            if remaining <= position:
                position -= 1
            x = self.grid.resize(conv(x), sizes[position])
        return x
