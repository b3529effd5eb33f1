"""The network as an exported file has it: pixels in, labels out, tensors only."""

import copy

import torch
from torch import Tensor, nn

from hfgd.export.metadata import Input
from hfgd.model.network import Network, evaluating
from hfgd.types import Branch


class ExportWrapper(nn.Module):
    """(N, 3, H, W) RGB, uint8 or float of [0, 1] → labels (N, H, W) uint8, logits (N, K, H, W).

    Normalisation, padding and cropping are inside. The network is a copy, fp32 on the CPU.
    """

    def __init__(self, network: Network, branch: Branch = "fine", input: Input = "uint8") -> None:
        super().__init__()
        with evaluating(network), torch.inference_mode(False):
            self.network = copy.deepcopy(network).requires_grad_(False).to("cpu", torch.float32)
        self.branch, self.input = branch, input
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = image.float() / 255 if self.input == "uint8" else image
        logits = self.network(x, all_branches=self.branch != "fine").full_size(self.branch)
        return logits.argmax(1).to(torch.uint8), logits

    def as_input(self, image: Tensor) -> Tensor:
        """uint8 RGB as this module and its file take it."""
        return image if self.input == "uint8" else image.float() / 255
