"""segmentation_models_pytorch's decoders as upsamplers, against that package's own use of them."""

import builtins
from importlib import import_module

import pytest
import torch

from conftest import toy
from hfgd.errors import HfgdError
from hfgd.model.upsamplers import UpsamplerSite, make_upsampler
from hfgd.model.upsamplers.smp import SMP, AdaptivePool
from hfgd.recipes import find_recipe
from hfgd.types import Grid

WIDTHS, D = (8, 16, 24), 32
CLASSES = {
    "smp_unet": "UnetDecoder",
    "smp_unetplusplus": "UnetPlusPlusDecoder",
    "smp_manet": "MAnetDecoder",
    "smp_linknet": "LinknetDecoder",
    "smp_fpn": "FPNDecoder",
    "smp_pan": "PANDecoder",
    "smp_segformer": "SegformerDecoder",
    "smp_upernet": "UPerNetDecoder",
}


def theirs(name, channels):
    """The decoder as that package builds it for an encoder of five levels."""
    short = name.removeprefix("smp_")
    module = import_module(f"segmentation_models_pytorch.decoders.{short}.decoder")
    make = getattr(module, CLASSES[name])
    if name in ("smp_unet", "smp_unetplusplus", "smp_manet"):
        return make(encoder_channels=channels, decoder_channels=(D, D, D, 16, 8))
    if name == "smp_linknet":
        return make(encoder_channels=channels)
    if name == "smp_pan":
        return make(encoder_channels=channels, encoder_depth=5, decoder_channels=D)
    if name == "smp_upernet":
        return make(encoder_channels=channels, decoder_channels=D)
    if name == "smp_fpn":
        return make(encoder_channels=channels, pyramid_channels=D, segmentation_channels=D)
    return make(encoder_channels=channels, segmentation_channels=D)


def maps(side, corners=0):
    """Skips at 4, 8, 16 and the high-level feature."""
    sizes = [(side // s + corners, 2 * side // s + corners) for s in (4, 8, 16, 32)]
    return [
        torch.rand(2, c, *size) for c, size in zip((*WIDTHS, D), sizes, strict=True)
    ]  # fmt: skip


def ours(name, grid=Grid.CELLS):
    return make_upsampler(name, UpsamplerSite(WIDTHS, D, 4, grid)).eval()


@pytest.mark.parametrize("name", CLASSES)
def test_it_is_that_packages_decoder_up_to_the_finest_skip(name):
    torch.manual_seed(1)
    mine = ours(name)
    *skips, high = maps(256)
    half = 0 if name == "smp_segformer" else 6  # channels of a map at stride 2
    whole = theirs(name, (3, half, *WIDTHS, D)).eval()
    kept = mine.decoder.state_dict()
    fresh = whole.load_state_dict(kept, strict=False)
    assert not fresh.unexpected_keys
    seen = {}
    last = {"smp_unet": "blocks.2", "smp_manet": "blocks.2", "smp_linknet": "blocks.2"}
    place = last.get(name, "blocks.x_0_2" if name == "smp_unetplusplus" else "")
    beyond = [key for key in fresh.missing_keys if not key.startswith(("blocks.3", "blocks.4"))]
    if name == "smp_unetplusplus":
        beyond = [key for key in beyond if not key.split(".")[1].endswith(("_3", "_4"))]
    assert not beyond
    whole.get_submodule(place).register_forward_hook(lambda m, x, y: seen.update(fine=y))
    with torch.inference_mode():
        whole([torch.rand(2, 3, 256, 512), torch.rand(2, half, 128, 256), *skips, high])
        found = mine(list(skips), high)
        expected = mine.end(seen["fine"])
    assert found.shape == (2, D, 64, 128)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", CLASSES)
def test_on_the_corners_grid_maps_go_on_as_they_end(name):
    """The result is that of maps whose last row and column are repeated, without what was added."""
    mine = ours(name, Grid.CORNERS)
    levels = maps(256, corners=1)
    longer = []
    for x, stride in zip(levels, (4, 8, 16, 32), strict=True):
        rows, columns = (9 * 32 // stride, 17 * 32 // stride)
        down = x[:, :, [min(i, x.shape[2] - 1) for i in range(rows)]]
        longer.append(down[..., [min(i, x.shape[3] - 1) for i in range(columns)]])
    with torch.inference_mode():
        found = mine(levels[:-1], levels[-1])
        expected = mine(longer[:-1], longer[-1])[..., :65, :129]
    torch.testing.assert_close(found, expected)


def test_dpt_is_that_packages_decoder():
    from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder

    site = UpsamplerSite((48,) * 3, D, 2, Grid.CELLS, (16, 16, 16, 32))
    mine = make_upsampler("smp_dpt", site).eval()
    whole = DPTDecoder(
        (48, 48, 48, D), (16, 16, 16, 32), False, "ignore", fusion_channels=D
    ).eval()  # fmt: skip
    whole.load_state_dict(mine.decoder.state_dict())
    skips, high = [torch.rand(1, 48, 4, 6) for _ in range(3)], torch.rand(1, D, 2, 3)
    with torch.inference_mode():
        found = mine(skips, high)
        expected = whole([*skips, high], [None] * 4)
    assert found.shape == (1, D, 32, 48)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("bins", [2, 3, 6])
def test_pools_are_pytorchs(bins):
    x = torch.rand(2, 3, 7, 11)
    torch.testing.assert_close(AdaptivePool(bins)(x), torch.nn.AdaptiveAvgPool2d(bins)(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: toy(upsampler="smp_dpt", stride=2), "reassembles the maps of a plain ViT"),
        (lambda: toy(backbone="vit", upsampler="smp_dpt"), "ends at stride 2; set stride: 2"),
        (lambda: toy(upsampler="smp_unet", stride=2), "ends at stride 4"),
        (lambda: toy(upsampler="smp_fpn", width=48), "a width that is a multiple of 32, not 48"),
        (lambda: toy(upsampler="smp_unet", guide_stride=16), "leave guide_stride"),
        (
            lambda: toy(upsampler="smp_upernet").train()(torch.rand(1, 3, 33, 33)),
            "give it two images at once",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(make, words):
    with pytest.raises(HfgdError, match=words) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_a_wrong_name_and_a_missing_package(monkeypatch):
    with pytest.raises(HfgdError, match="did you mean 'smp_unet'"):
        find_recipe("hfgd_resnet50").with_(**{"model.upsampler": "smp_unett"})
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("segmentation_models_pytorch"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in SMP:
        with pytest.raises(HfgdError, match=r"not installed; pip install 'hfgd\[decoders\]'"):
            make_upsampler(name, UpsamplerSite(WIDTHS, D, 2 if "dpt" in name else 4, Grid.CELLS))


@pytest.mark.parametrize("name", CLASSES)
def test_any_size_goes_in(name):
    model = toy(upsampler=name).eval()
    with torch.inference_mode():
        for size in ((1, 1), (33, 150)):
            assert model(torch.rand(1, 3, *size)).full_size().shape == (1, 5, *size)
