"""``ocr``: object-contextual representations [53] (paper §3.2, Table 1).

Soft object regions from auxiliary logits, which have a cross-entropy of their own (weight 0.4);
the centre of each region; attention of every pixel over the centres; fused with the pixels.
The authors' released code transposes the centres once too often and attends over channels; this is
OCR as published, so a small difference from the paper's OCR rows is expected.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfgd.model.blocks import ConvBnRelu
from hfgd.model.parts import Encoded


class OCR(nn.Module):
    """(B, C_4, h, w) → (B, D, h, w); hands out its region logits (B, K, h, w)."""

    PIXEL_WIDTH, KEY_WIDTH = 512, 256

    def __init__(self, in_width: int, width: int, num_classes: int) -> None:
        super().__init__()
        pixel, key = self.PIXEL_WIDTH, self.KEY_WIDTH
        self.regions = nn.Sequential(ConvBnRelu(in_width, 2048, 3), nn.Conv2d(2048, num_classes, 1))
        self.pixels = ConvBnRelu(in_width, pixel, 3)
        self.query = nn.Sequential(ConvBnRelu(pixel, key, 1), ConvBnRelu(key, key, 1))
        self.key = nn.Sequential(ConvBnRelu(pixel, key, 1), ConvBnRelu(key, key, 1))
        self.value = ConvBnRelu(pixel, key, 1)
        self.up = ConvBnRelu(key, pixel, 1)
        self.fuse = ConvBnRelu(2 * pixel, width, 1)

    def forward(self, top: Tensor) -> Encoded:
        region_logits = self.regions(top)
        pixels = self.pixels(top)
        centres = region_centres(region_logits, pixels)[..., None]  # (B, 512, K, 1)
        query, key, value = (
            layer(x).flatten(2).transpose(1, 2)[:, None]
            for layer, x in ((self.query, pixels), (self.key, centres), (self.value, centres))
        )  # (B, 1, h·w or K, 256): the fused kernels, and ONNX, take four axes
        context = F.scaled_dot_product_attention(query, key, value)[:, 0]  # softmax over regions
        context = context.transpose(1, 2).reshape(*context.shape[::2], *pixels.shape[-2:])
        high = self.fuse(torch.cat([self.up(context), pixels], dim=1))
        return Encoded(high=high, region_logits=region_logits)


def region_centres(region_logits: Tensor, pixels: Tensor) -> Tensor:
    """Pixels (B, C, h, w) averaged by each region's softmax over all places → (B, C, K)."""
    weights = torch.softmax(region_logits.float().flatten(2), dim=2).to(pixels.dtype)  # (B, K, h·w)
    return pixels.flatten(2) @ weights.transpose(1, 2)
