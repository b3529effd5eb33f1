"""The class tokens: the classifier that both branches share (paper §3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfgd.errors import HfgdError
from hfgd.model.axial_attention import AxialAttention
from hfgd.model.config import NO_GUIDANCE, Guidance
from hfgd.model.upsamplers.none import NoUpsampler


class ClassTokens(nn.Module):
    """One D-vector and one bias for each of the K classes: a 1×1 convolution that can be frozen.

    The rows of ``weight`` (K, D) are the tokens; a logit is the product of a pixel with a token.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_classes, width)))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """(B, D, H, W) → logits (B, K, H, W); ``frozen`` stops the gradient before the tokens."""
        weight = self.weight.detach() if frozen else self.weight
        bias = self.bias.detach() if frozen else self.bias
        return F.conv2d(x, weight[:, :, None, None], bias)


class HFGM(nn.Module):
    """Upsampler, axial attention and the shared class tokens.

    ``upsampler`` maps (skips, high) to the fine feature (B, D, H/s, W/s); ``axial`` may be None.
    """

    def __init__(
        self,
        upsampler: nn.Module,
        tokens: ClassTokens,
        axial: AxialAttention | None = None,
        guidance: Guidance = NO_GUIDANCE,
    ) -> None:
        super().__init__()
        if guidance.share_tokens and isinstance(upsampler, NoUpsampler):
            raise HfgdError(
                "guidance needs an upsampler to guide, and this model has upsampler 'none'; "
                "choose one (sfpn, u_sfpn) or switch the guidance off."
            )
        self.upsampler = upsampler
        self.axial = axial
        self.tokens = tokens
        self.guidance = guidance

    def forward(
        self, skips: list[Tensor], high: Tensor, guide: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Skips at strides 4, 8, 16 and ``high`` (B, D, h, w) → fine logits, guide logits.

        Guide logits (B, K, h, w) are computed only where ``guide`` asks and tokens are shared.
        """
        guide_logits = self.tokens(high) if guide and self.guidance.share_tokens else None
        if self.guidance.stop_features:
            skips, high = [skip.detach() for skip in skips], high.detach()
        fine = self.upsampler(skips, high)  # (B, D, H/s, W/s)
        if fine.ndim != 4 or fine.shape[1] != high.shape[1]:
            raise HfgdError(
                f"the upsampler {type(self.upsampler).__name__} gives a feature of shape "
                f"{list(fine.shape)}, and HFGM needs (batch, {high.shape[1]}, height, width): as wide "
                "as the high-level feature and the class tokens."
            )
        if self.axial is not None:
            fine = fine + self.axial(fine)
        return self.tokens(fine, frozen=self.guidance.stop_tokens), guide_logits
