"""The other encoders and upsamplers against obvious code and independent counts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hfgd.model.encoders import ENCODERS, EncoderSite
from hfgd.model.encoders.aspp import ASPP
from hfgd.model.encoders.ocr import OCR, region_centres
from hfgd.model.encoders.ppm import PPM
from hfgd.model.encoders.sa import SA, SACAR
from hfgd.model.hfgm import ClassTokens
from hfgd.model.upsamplers import UPSAMPLERS, UpsamplerSite, make_upsampler
from hfgd.model.upsamplers.fapn import FeatureAlignment
from hfgd.model.upsamplers.sfpn import SemanticBranches
from hfgd.model.upsamplers.smp import SMP
from hfgd.types import Grid


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def cbr(in_width: int, width: int, kernel: int) -> int:
    """Parameters of CBR: weights, and batch norm's scale and shift."""
    return in_width * width * kernel * kernel + 2 * width


@pytest.mark.parametrize(
    ("make", "golden"),  # recipe 3.7 and 8.3: the authors' heads on ResNet-50's 2048 channels
    [
        (lambda: [ENCODERS["identity"](EncoderSite(2048, 256, 32, 59, Grid.CORNERS))], 9_569_792),
        (lambda: [ASPP(2048, 256, 32)], 15_535_104),
        (lambda: [SA(2048, 512), ClassTokens(59, 512)], 35_788_923 - 23_631_808),
        (lambda: [SACAR(2048, 512), ClassTokens(59, 512)], 33_954_427 - 23_631_808),
        (lambda: [OCR(2048, 512, 59), ClassTokens(59, 512)], 48_526_454),
        (lambda: [ENCODERS["cae"](EncoderSite(2048, 256, 32, 59, Grid.CORNERS))], 5_970_560),
    ],
)
def test_encoder_parameters_are_the_authors(make, golden):
    assert parameters(*make()) == golden


def test_upsampler_parameters_by_an_independent_count():
    skips, d = (256, 512, 1024), 256
    site = UpsamplerSite(skips, d, 4, Grid.CORNERS)
    branches = 7 * cbr(d, d, 3) + cbr(d, d, 1)
    selection = sum(2 * c * c + c * d for c in skips)
    alignment = 2 * d * d + (d * 27 * 9 + 27) + (d * d * 9 + d)
    expected = {
        "none": 0,
        "sfpn": sum(cbr(c, d, 1) for c in skips) + branches,
        "u_sfpn": sum(cbr(c, d, 3) for c in skips) + branches,
        "fapn": selection + 3 * alignment + branches,
        "upernet": sum(cbr(c, d, 1) + cbr(d, d, 3) for c in skips) + cbr(4 * d, d, 3),
        "deeplabv3plus": cbr(256, 48, 1) + cbr(d + 48, d, 3) + cbr(d, d, 3),
    }
    ours = [name for name in UPSAMPLERS if name not in SMP]  # those are counted in test_smp.py
    assert {name: parameters(make_upsampler(name, site)) for name in ours} == expected
    # recipe 3.2: top-down 460,288 and semantic block 4,198,400
    assert expected["sfpn"] == 460_288 + 4_198_400
    assert parameters(PPM(2048, 512, Grid.CORNERS)) == 4 * cbr(2048, 512, 1) + cbr(4096, 512, 3)


@pytest.mark.parametrize(
    ("stride", "rates"), [(32, (3, 6, 9)), (16, (6, 12, 18)), (8, (12, 24, 36))]
)
def test_aspp_rates_grow_as_the_stride_shrinks(stride, rates):
    aspp = ASPP(8, 8, stride)
    assert tuple(block[0].dilation[0] for block in aspp.dilated) == rates
    assert tuple(block[0].padding[0] for block in aspp.dilated) == rates


def test_aspp_pools_the_whole_image():
    aspp, top = ASPP(8, 4, 32).eval(), torch.randn(2, 8, 5, 6)
    image = aspp.image(top.mean((2, 3))[:, :, None, None])
    parts = [image.expand(-1, -1, 5, 6), aspp.point(top), *(conv(top) for conv in aspp.dilated)]
    torch.testing.assert_close(aspp(top).high, aspp.end(torch.cat(parts, 1)))


def test_ppm_equals_pooling_by_hand():
    ppm, top = PPM(6, 4, Grid.CELLS).eval(), torch.randn(1, 6, 12, 12)
    maps = [top]
    for bins, conv in zip((1, 2, 3, 6), ppm.pools, strict=True):
        cell = 12 // bins
        pooled = torch.zeros(1, 6, bins, bins)
        for i in range(bins):
            for j in range(bins):
                window = top[..., i * cell : (i + 1) * cell, j * cell : (j + 1) * cell]
                pooled[..., i, j] = window.mean((2, 3))
        maps.append(F.interpolate(conv(pooled), (12, 12), mode="bilinear"))
    torch.testing.assert_close(ppm(top).high, ppm.end(torch.cat(maps, 1)))


@pytest.mark.parametrize("encoder", ["aspp", "ppm"])
def test_pooled_branches_train_on_a_single_image(encoder):
    """Batch norm refuses one value per channel; a batch of one image must train all the same."""
    module = ENCODERS[encoder](EncoderSite(8, 8, 32, 5, Grid.CORNERS)).train()
    module(torch.randn(1, 8, 3, 4)).high.sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_ocr_region_centres_equal_loops():
    logits, pixels = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
    centres = region_centres(logits, pixels)
    for b in range(2):
        for k in range(3):
            weights = logits[b, k].exp() / logits[b, k].exp().sum()
            expected = sum(weights[y, x] * pixels[b, :, y, x] for y in range(4) for x in range(5))
            torch.testing.assert_close(centres[b, :, k], expected)


def test_ocr_attends_over_regions_not_channels():
    """With one region every pixel's context is that region's value, whatever its query."""
    ocr = OCR(8, 4, num_classes=1).eval()
    top = torch.randn(1, 8, 3, 3)
    centre = region_centres(ocr.regions(top), ocr.pixels(top))[..., None]
    context = ocr.up(ocr.value(centre)).expand(-1, -1, 3, 3)
    expected = ocr.fuse(torch.cat([context, ocr.pixels(top)], 1))
    torch.testing.assert_close(ocr(top).high, expected)


def test_sa_equals_multihead_attention_on_its_own_projections():
    sa = SA(8, 8).eval()
    x = sa.reduce(torch.randn(1, 8, 4, 5))
    query, key, value = (
        f(x).flatten(2).transpose(1, 2)
        for f in (sa.attention.query, sa.attention.key, sa.attention.value)
    )
    attention = nn.MultiheadAttention(64, 1, vdim=512, bias=False, batch_first=True)
    with torch.no_grad():  # identity projections; values in slices of 64; ours is unscaled
        attention.q_proj_weight.copy_(torch.eye(64) * 64**0.5)
        attention.k_proj_weight.copy_(torch.eye(64))
        attention.out_proj.weight.copy_(torch.eye(64))
        slices = []
        for start in range(0, 512, 64):
            attention.v_proj_weight.zero_()
            attention.v_proj_weight[:, start : start + 64] = torch.eye(64)
            slices.append(attention(query, key, value)[0])
    expected = x + torch.cat(slices, -1).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(sa.attention(x), expected, atol=1e-5, rtol=1e-4)


def test_alignment_with_zero_offsets_is_half_a_plain_convolution():
    """Offsets start at zero and masks at sigmoid(0) = 1/2."""
    align = FeatureAlignment(4)
    align.init_weights()
    nn.init.zeros_(align.offset.bias)
    nn.init.normal_(align.deform.bias)
    fine, coarse = torch.randn(2, 2, 4, 7, 9).unbind(0)
    plain = F.conv2d(coarse, align.deform.weight, padding=1) / 2
    expected = F.relu(plain + align.deform.bias[:, None, None])
    torch.testing.assert_close(align(fine, coarse), expected, atol=1e-5, rtol=1e-4)


def test_alignment_moves_by_its_offsets():
    """An offset of one pixel to the right reads the neighbour to the right."""
    align = FeatureAlignment(3)
    align.init_weights()
    with torch.no_grad():
        align.offset.bias.zero_()
        align.offset.bias[1:18:2] = 1  # (dy, dx) of each of the nine taps
        align.offset.bias[18:] = 100  # masks of one
    fine, coarse = torch.randn(2, 1, 3, 6, 8).unbind(0)
    moved = F.pad(coarse, (0, 1))[..., 1:]
    expected = F.relu(F.conv2d(moved, align.deform.weight, align.deform.bias, padding=1))
    inner = (..., slice(None), slice(2, 6))  # away from the padding, which does not move
    torch.testing.assert_close(align(fine, coarse)[inner], expected[inner], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("stride", "convs"), [(4, [1, 1, 2, 3]), (2, [2, 2, 3, 4])])
def test_branches_have_the_papers_number_of_convolutions(stride, convs):
    semantic = SemanticBranches(4, 8, Grid.CORNERS, stride)
    assert [len(branch) for branch in semantic.branches] == convs


def test_branches_convolve_before_each_resize():
    """Stride 2, by hand: what every level goes through."""
    semantic = SemanticBranches(4, 4, Grid.CORNERS, stride=2).eval()
    sizes = [(33, 33), (17, 17), (9, 9), (5, 5), (3, 3)]
    pyramid = [torch.randn(1, 4, *size) for size in sizes[1:]]

    def up(x, size):
        return F.interpolate(x, size, mode="bilinear", align_corners=True)

    total = 0
    for level, x in enumerate(pyramid, start=1):
        convs = list(semantic.branches[level - 1])
        if level == 1:  # stride 4 has one convolution more than it has levels to climb
            x = convs.pop(0)(x)
        for size, conv in zip(sizes[level - 1 :: -1], convs, strict=True):
            x = up(conv(x), size)
        total = total + x
    torch.testing.assert_close(semantic(pyramid), semantic.end(total), atol=1e-5, rtol=1e-4)
