"""The class tokens: the classifier that both branches share (paper §3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
