"""The auxiliary FCN of the paper's problem verification (§5.1, Fig. 1).

A second head on the raw stride-32 map with tokens of its own, which shows how good the backbone's
high-level feature still is while an upsampler is trained beside it.
"""

from torch import Tensor, nn

from hfgd.model.encoders.identity import Identity
from hfgd.model.hfgm import ClassTokens


class AuxFCN(nn.Module):
    """(B, C_4, h, w) → logits (B, K, h, w); ``stopped`` keeps its loss out of the backbone."""

    def __init__(self, in_width: int, width: int, num_classes: int, stopped: bool) -> None:
        super().__init__()
        self.encoder = Identity(in_width, width)
        self.tokens = ClassTokens(num_classes, width)
        self.stopped = stopped

    def forward(self, top: Tensor) -> Tensor:
        high = self.encoder(top.detach() if self.stopped else top).high
        logits: Tensor = self.tokens(high)
        return logits
