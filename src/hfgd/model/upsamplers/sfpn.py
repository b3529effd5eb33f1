"""``sfpn`` and ``u_sfpn``: SemanticFPN [23] and Ultra SemanticFPN (paper §3.3, App. A, Fig. 5).

SemanticFPN: laterals CBR(D, 1) on strides 4, 8, 16; the encoder's output enters at 32 as it is;
top-down resize and add, without a smoothing convolution; then the semantic branches.
U-SFPN: laterals CBR(D, 3), and branches that can reach stride 2. The paper's stride 2 uses no
stride-2 feature of the backbone, and neither does this.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from hfgd.geometry import Grid
from hfgd.model.blocks import ConvBnRelu
from hfgd.model.upsamplers.branches import SemanticBranches
from hfgd.resample import resize


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
