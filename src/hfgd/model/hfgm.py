"""The high-level feature guided module, the paper's core (§3.1, Fig. 2). Read after segmenter.py.

There is always exactly one set of class tokens. Guidance says which features train it and how
far back the fine loss reaches, so a guided and an unguided model are the same code and have the
same ``state_dict`` keys.
"""

from torch import Tensor, nn

from hfgd.errors import HfgdError
from hfgd.model.axial_attention import AxialAttention
from hfgd.model.class_tokens import ClassTokens
from hfgd.model.spec import NO_GUIDANCE, Guidance
from hfgd.model.upsamplers.none import NoUpsampler


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
