"""One contract for every composition, on toy backbones."""

import itertools

import pytest
import torch

from conftest import TOYS, toy
from hfgd.losses.terms import LossSpec, loss_terms
from hfgd.model.config import GUIDANCE, NO_GUIDANCE, NO_STOP_GRADIENT
from hfgd.model.encoders import ENCODERS
from hfgd.model.upsamplers import UPSAMPLERS

GUIDANCES = {"none": NO_GUIDANCE, "full": GUIDANCE, "no_stop": NO_STOP_GRADIENT}


def quick(backbone, encoder, upsampler, guidance):
    """Whether 'make test' runs a composition: of other people's decoders and of ViTs only some."""
    if upsampler.startswith("smp_"):
        return guidance == "full" and backbone == (
            "vit" if upsampler == "smp_dpt" else "test_resnet"
        )
    return backbone != "vit" or (guidance == "full" and encoder in ("identity", "cae"))


def rows():
    """Every encoder and every upsampler under every guidance, on four backbones."""
    ends = [("none", 4), ("u_sfpn", 4)]
    whole = [(encoder, *end) for encoder in ENCODERS for end in ends]
    whole += [
        ("identity", upsampler, 2 if upsampler == "smp_dpt" else 4)
        for upsampler in UPSAMPLERS
        if upsampler != "u_sfpn"
    ]
    whole += [("cae", "u_sfpn", 2)]
    for backbone, (encoder, upsampler, stride), guidance in itertools.product(
        TOYS, dict.fromkeys(whole), GUIDANCES
    ):
        if upsampler == "smp_dpt" and backbone != "vit":
            continue  # refused, see test_smp.py
        if upsampler != "none" or guidance == "none":
            axial = guidance != "none"
            name = f"{backbone}-{encoder}-{upsampler}{stride}-{guidance}"
            marks = () if quick(backbone, encoder, upsampler, guidance) else pytest.mark.slow
            values = (backbone, encoder, upsampler, stride, guidance, axial)
            yield pytest.param(*values, id=name, marks=marks)


@pytest.mark.parametrize(
    ("backbone", "encoder", "upsampler", "stride", "guidance", "axial"), rows()
)
def test_contract(backbone, encoder, upsampler, stride, guidance, axial):
    if upsampler.startswith("smp_"):
        pytest.importorskip("segmentation_models_pytorch")  # an extra, not in the matrix
    model = toy(
        backbone=backbone,
        encoder=encoder,
        upsampler=upsampler,
        stride=stride,
        guidance=GUIDANCES[guidance],
        axial_attention=axial,
    ).train()
    image, label = torch.rand(2, 3, 65, 47), torch.randint(0, 5, (2, 65, 47))
    output = model(image)

    padded = model.backbone.grid.padded((65, 47))
    expected = -(-padded[0] // (32 if upsampler == "none" else stride))
    assert output.logits.shape[:2] == (2, 5)
    assert output.logits.shape[2] == expected
    assert output.full_size().shape == (2, 5, 65, 47)
    assert (output.guide_logits is not None) == (guidance != "none")

    terms = loss_terms(output, label, LossSpec())
    sum(terms.values()).backward()
    silent = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert not silent

    model.eval()
    with torch.inference_mode():
        once = model(image[:1])  # batch 1
        assert once.guide_logits is None
        assert model(image[:1], all_branches=True).logits.shape == once.logits.shape
        with torch.autocast("cpu", torch.bfloat16):
            low = model(image).full_size().float()
        torch.testing.assert_close(low, model(image).full_size(), atol=0.25, rtol=0.25)


@pytest.mark.parametrize("backbone", TOYS)
@pytest.mark.parametrize("size", [(513, 513), (97, 131), (33, 500), (32, 32), (500, 33)])
def test_any_size_goes_in_and_comes_out(backbone, size):
    model = toy(backbone=backbone, encoder="cae", upsampler="u_sfpn", axial_attention=True).eval()
    with torch.inference_mode():
        logits = model(torch.rand(1, 3, *size)).full_size()
    assert logits.shape == (1, 5, *size)
    assert logits.isfinite().all()


def test_state_dict_keys_do_not_depend_on_guidance():
    keys = [
        list(toy(upsampler="u_sfpn", encoder="cae", guidance=guidance).state_dict())
        for guidance in GUIDANCES.values()
    ]
    assert keys[0] == keys[1] == keys[2]


def test_padding_does_not_move_the_picture():
    """An image that fits the grid gives the same logits as the network without any padding."""
    model = toy(upsampler="sfpn").eval()
    image = torch.rand(1, 3, 65, 97)
    with torch.inference_mode():
        output = model(image)
        maps = model.backbone.net((image - model.backbone.mean) / model.backbone.std)
        *skips, top = maps
        logits, _ = model.hfgm(skips, model.encoder(top).high, guide=False)
    torch.testing.assert_close(output.logits, logits)
