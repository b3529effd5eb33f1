"""Layers against golden numbers of the authors' TensorFlow code and against obvious code."""

import pytest
import torch

from conftest import toy
from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.model import BackboneSpec, ModelSpec
from hfgd.model.axial_attention import axial_attention
from hfgd.model.backbones import TimmPyramid
from hfgd.model.blocks import SelfAttention
from hfgd.model.build import build
from hfgd.model.config import GUIDANCE, Guidance
from hfgd.types import Grid

AXIAL = {  # heads: (sum, first pixel); recipe 8.4, input sin(0.37 i), 1×3×4×8
    1: (4.844716, [-0.4197, -0.16212, 0.1174, 0.38103, 0.59309, 0.72488, 0.75856, 0.68957]),
    4: (5.650852, [0.04133, 0.12915, 0.57016, 0.53914, 0.07275, 0.29714, 0.70503, 0.54293]),
}


@pytest.mark.parametrize("heads", AXIAL)
def test_axial_attention_golden(heads):
    x = torch.sin(0.37 * torch.arange(96.0)).reshape(1, 3, 4, 8).permute(0, 3, 1, 2)
    y = axial_attention(x, x, x, heads)
    total, first = AXIAL[heads]
    assert y.sum().item() == pytest.approx(total, abs=5e-5)
    interleaved = y[0, :, 0, 0].reshape(heads, 8 // heads).t().flatten()  # their channel order
    torch.testing.assert_close(interleaved, torch.tensor(first), atol=1e-5, rtol=0)


def test_axial_attention_equals_loops():
    q, k, v = torch.randn(3, 2, 8, 4, 5).unbind(0)
    expected = torch.zeros_like(v)
    for b in range(2):
        for head in range(2):
            c = slice(4 * head, 4 * head + 4)
            middle = torch.zeros(4, 4, 5)
            for x in range(5):
                weights = torch.softmax(q[b, c, :, x].t() @ k[b, c, :, x] / 2, dim=1)
                middle[:, :, x] = (weights @ v[b, c, :, x].t()).t()
            for y in range(4):
                weights = torch.softmax(q[b, c, y].t() @ k[b, c, y] / 2, dim=1)
                expected[b, c, y] = (weights @ middle[:, y].t()).t()
    torch.testing.assert_close(axial_attention(q, k, v, heads=2), expected)


def test_self_attention_equals_an_explicit_softmax():
    layer, x = SelfAttention(16, key_width=4), torch.randn(2, 16, 3, 5)
    query, key, value = (f(x).flatten(2) for f in (layer.query, layer.key, layer.value))
    weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)  # unscaled
    expected = x + (value @ weights.transpose(1, 2)).reshape(x.shape)
    torch.testing.assert_close(layer(x), expected)


def test_query_and_key_start_equal_and_are_not_tied():
    model = toy(encoder="cae", axial_attention=True)
    for layer in (model.encoder.attention, model.hfgm.axial):
        assert torch.equal(layer.query.weight, layer.key.weight)
        assert layer.query.weight is not layer.key.weight


HEADS = {  # recipe 8.3: widths, stride, classes → parameters of encoder and HFGM
    ("resnet50", 4, 59): 14_511_803,
    ("resnet50", 4, 171): 14_540_587,
    ("resnet50", 2, 59): 16_873_147,
    ("resnet50", 2, 19): 16_862_867,
    ("convnext_large", 4, 150): 12_454_422,
    ("convnext_large", 2, 59): 14_792_379,
}


@pytest.mark.parametrize(("case", "expected"), HEADS.items())
def test_head_parameters_are_the_recipes(case, expected):
    backbone, stride, classes = case
    spec = ModelSpec(
        backbone=BackboneSpec(name=backbone),
        encoder="cae",
        upsampler="u_sfpn",
        stride=stride,
        guidance=GUIDANCE,
        axial_attention=True,
    )
    with torch.device("meta"):
        model = build(spec, ClassSet.numbered(classes))
    counted = sum(p.numel() for part in (model.encoder, model.hfgm) for p in part.parameters())
    assert counted == expected


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("test_resnet", Grid.CORNERS),
        ("mobilenetv2_100", Grid.CORNERS),
        ("test_efficientnet", Grid.CORNERS),
        ("test_convnext", Grid.CELLS),
        ("swin_tiny_patch4_window7_224", Grid.CELLS),
    ],
)
def test_backbones_know_their_grid(name, grid):
    assert TimmPyramid(name).grid is grid


def test_backbone_normalises_and_pads_with_what_becomes_zero():
    backbone = TimmPyramid("test_resnet", mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.4))
    seen = []
    backbone.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    image = torch.rand(1, 3, 40, 50)
    backbone(image)
    (x,) = seen
    assert x.shape == (1, 3, 65, 65)
    mean, std = torch.tensor([0.2, 0.4, 0.6]), torch.tensor([0.1, 0.2, 0.4])
    expected = (image - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(x[..., :40, :50], expected)
    assert not x[..., 40:, :].any()
    assert not x[..., 50:].any()


def test_swin_shifts_its_windows_at_any_size():
    """timm's Swin freezes windows at 224; ours must give maps of the size asked for."""
    maps = toy(backbone="swin").backbone(torch.rand(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (1, 24, 16, 24),
        (1, 48, 8, 12),
        (1, 96, 4, 6),
        (1, 192, 2, 3),
    ]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"name": "resnet5"}, "did you mean 'resnet5"),
        ({"name": "test_vit"}, "four-level pyramid"),
        ({"name": "resnet50", "output_stride": 4}, "output_stride is 32, 16 or 8"),
        ({"name": "swin_tiny_patch4_window7_224", "output_stride": 8}, "cannot be dilated"),
        ({"name": "test_convnext", "multi_grid": (1, 2, 4)}, "no such stage"),
        ({"name": "test_resnet", "pretrained": "/nowhere.safetensors"}, "there is no file"),
        ({"name": "test_resnet", "options": {"colour": 1}}, "could not be built"),
    ],
)
def test_backbones_that_cannot_be_are_refused_in_a_sentence(kwargs, words):
    with pytest.raises(HfgdError, match=words):
        TimmPyramid(**kwargs)


@pytest.mark.parametrize(
    ("stride", "dilations"), [(32, [1, 2, 4]), (16, [2, 4, 8]), (8, [4, 8, 16])]
)
def test_multi_grid_multiplies_the_dilation_of_stage_4(stride, dilations):
    """The authors' ResNet-50, block by block; timm alone dilates the first block half as much."""
    backbone = TimmPyramid("resnet50", output_stride=stride, multi_grid=(1, 2, 4))
    assert [block.conv2.dilation[0] for block in backbone.net.layer4] == dilations
    assert [block.conv2.padding[0] for block in backbone.net.layer4] == dilations
    assert backbone(torch.rand(1, 3, 65, 65))[-1].shape[-2:] == (64 // stride + 1,) * 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: toy(upsampler="none", guidance=GUIDANCE), "needs an upsampler"),
        (lambda: toy(upsampler="sfpn", stride=2), "use 'u_sfpn'"),
        (lambda: Guidance(stop_tokens=True), "need guidance.share_tokens"),
    ],
)
def test_compositions_without_sense_are_refused_in_a_sentence(make, words):
    with pytest.raises(HfgdError, match=words):
        make()
