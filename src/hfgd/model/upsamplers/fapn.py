"""``fapn``: feature-aligned pyramid network [17], then SemanticFPN's branches (paper §5.5, Table 8).

Top-down over the three skips. Feature selection re-weights a skip's channels and projects them;
feature alignment moves the coarse map onto it by a modulated deformable convolution, whose offsets
and masks come from both. No batch norm before the branches, as in the authors' code.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import DeformConv2d, deform_conv2d

from hfgd.model.upsamplers.sfpn import SemanticBranches
from hfgd.resample import resize
from hfgd.types import Grid


class FeatureSelection(nn.Module):
    """Squeeze-and-excitation with ratio 1 and a residual, then a 1×1 projection; no biases."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_width, in_width, 1, bias=False)
        self.excite = nn.Conv2d(in_width, in_width, 1, bias=False)
        self.project = nn.Conv2d(in_width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> (B, D, h, w)
        mean = x.mean((2, 3), keepdim=True)
        importance = torch.sigmoid(self.excite(F.relu(self.squeeze(mean))))
        projected: Tensor = self.project(x + x * importance)
        return projected


class FeatureAlignment(nn.Module):
    """A fine and an upsampled coarse map (B, D, h, w) → the coarse map, aligned to the fine one.

    Offsets start at zero and masks at one half, so that it starts as half a plain convolution.
    """

    TAPS = 9  # of a 3×3 kernel: two offsets and one mask each

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset_feature = nn.Conv2d(2 * width, width, 1, bias=False)
        self.offset = nn.Conv2d(width, 3 * self.TAPS, 3, padding=1)
        self.deform = DeformConv2d(width, width, 3, padding=1)

    def init_weights(self) -> None:
        nn.init.zeros_(self.offset.weight)
        nn.init.xavier_uniform_(self.deform.weight)
        if self.deform.bias is not None:
            nn.init.zeros_(self.deform.bias)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        both = self.offset(self.offset_feature(torch.cat([fine, 2 * coarse], dim=1)))
        offset, mask = both.split([2 * self.TAPS, self.TAPS], dim=1)
        # torchvision's kernel takes one type for all, and none of less than fp32, also under autocast
        kind = torch.promote_types(self.deform.weight.dtype, torch.float32)
        aligned = deform_conv2d(
            coarse.to(kind),
            offset.to(kind),
            self.deform.weight.to(kind),
            None if self.deform.bias is None else self.deform.bias.to(kind),
            padding=1,
            mask=torch.sigmoid(mask.to(kind)),
        )
        return F.relu(aligned).to(fine.dtype)


class FaPN(nn.Module):
    """Skips at strides 4, 8, 16 and high (B, D, h, w) at 32 → (B, D, H/4, W/4)."""

    def __init__(self, skip_widths: Sequence[int], width: int, grid: Grid) -> None:
        super().__init__()
        self.selections = nn.ModuleList(FeatureSelection(c, width) for c in skip_widths)
        self.alignments = nn.ModuleList(FeatureAlignment(width) for _ in skip_widths)
        self.semantic = SemanticBranches(len(skip_widths) + 1, width, grid)
        self.grid = grid

    def forward(self, skips: list[Tensor], high: Tensor) -> Tensor:
        pyramid = [high]
        layers = zip(
            reversed(self.selections), reversed(self.alignments), reversed(skips), strict=True
        )
        for select, align, skip in layers:
            fine = select(skip)
            coarse = resize(pyramid[-1], (fine.shape[-2], fine.shape[-1]), self.grid)
            pyramid.append(align(fine, coarse) + fine)
        result: Tensor = self.semantic(pyramid[::-1])
        return result
