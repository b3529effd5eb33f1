"""``none``: no upsampler; the high-level feature is classified as it is (FCN, dilated models)."""

from torch import Tensor, nn


class NoUpsampler(nn.Module):
    """Returns ``high`` (B, D, h, w) untouched."""

    def forward(self, skips: list[Tensor], high: Tensor) -> Tensor:
        return high
