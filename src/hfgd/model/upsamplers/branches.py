"""The semantic branches of SemanticFPN [23]: from a pyramid to one fine feature.

Per level 1/1/2/3 × [CBR(D, 3) → resize one level finer]; the sum of the four → CBR(D, 1). At
stride 2 every branch gets one more [CBR(D, 3) → resize] (paper §3.3).
"""

from torch import Tensor, nn

from hfgd.errors import HfgdError
from hfgd.geometry import Grid, Size
from hfgd.model.blocks import ConvBnRelu
from hfgd.resample import resize


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
