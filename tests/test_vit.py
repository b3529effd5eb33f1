"""Plain ViTs as pyramids: patches, positions, layers, and what is refused."""

import re

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import hfgd
from conftest import TOYS, toy
from hfgd.checkpoint import load_model, read_config
from hfgd.cost import Cost
from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.export.write import facts_of
from hfgd.model import BackboneSpec, ModelSpec
from hfgd.model.backbones import TimmPyramid, VitPyramid, make_backbone
from hfgd.model.backbones.timm_pyramid import licence_in_words, licence_of
from hfgd.model.build import build
from hfgd.recipes import find_recipe
from hfgd.recipes import toy as toy_recipe
from hfgd.training.fit import fit
from hfgd.training.optim import layer_scales, make_optimiser
from hfgd.types import Grid

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
FAMILIES = {
    "DeiT, two tokens": "deit_tiny_distilled_patch16_224",
    "DINOv2, registers": "vit_small_patch14_reg4_dinov2",
    "DINOv3, rotary": "vit_small_patch16_dinov3",
    "EVA, positions and rotary": "eva02_tiny_patch14_224",
    "SigLIP, no tokens": "vit_base_patch16_siglip_224",
    "patches of 8": "vit_small_patch8_224",
    "patches of 32": "vit_small_patch32_224",
}


def with_positions(net):
    """Positions that matter: a fresh network's are small."""
    if getattr(net, "pos_embed", None) is not None:
        nn.init.normal_(net.pos_embed)
    return net


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_every_family_is_a_pyramid_of_any_size(name):
    spec = BackboneSpec(name=name, options=SMALL)
    model = build(ModelSpec(backbone=spec, width=32), ClassSet.numbered(3)).train()
    assert isinstance(model.backbone, VitPyramid)
    assert model.backbone.grid is Grid.CELLS
    output = model(torch.rand(2, 3, 70, 45))
    assert output.frame.padded == (96, 64)
    assert output.logits.shape[2:] == (24, 16)
    output.logits.square().mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.eval()
    with torch.inference_mode():
        for size in ((1, 1), (33, 200), (224, 224)):
            assert model(torch.rand(1, 3, *size)).full_size().shape[2:] == size


def test_patches_of_14_answer_to_16_as_they_did(tmp_path):
    """An image made of enlarged patches gives the map of the network as it was published."""
    name = "vit_small_patch14_reg4_dinov2"
    options = SMALL | {"img_size": 112}
    published = with_positions(timm.create_model(name, **options)).eval()
    save_file(published.state_dict(), tmp_path / "published.safetensors")
    ours = VitPyramid(
        name, pretrained=str(tmp_path / "published.safetensors"), output_stride=16, options=options
    ).eval()
    image = torch.rand(1, 3, 112, 112)
    patches = F.unfold(image, 14, stride=14).transpose(1, 2).reshape(64, 3, 14, 14)
    larger = F.interpolate(patches, (16, 16), mode="bicubic", antialias=True)
    enlarged = F.fold(larger.reshape(1, 64, -1).transpose(1, 2), (128, 128), 16, stride=16)
    with torch.inference_mode():
        tokens = published.forward_features(image)[:, 5:]  # a class token and four registers
        maps = ours.pyramid(enlarged)
    expected = tokens.transpose(1, 2).reshape(1, 32, 8, 8)
    for found in maps:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours.net.pos_embed, published.pos_embed)


@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_224", "vit_small_patch16_dinov3"])
def test_positions_follow_the_image(name):
    """Against timm's network, built for that size and with its positions resampled once."""
    ours = VitPyramid(name, output_stride=16, options=SMALL).eval()
    theirs = timm.create_model(name, num_classes=0, **SMALL).eval()
    theirs.load_state_dict(with_positions(ours.net).state_dict(), strict=False)
    theirs.set_input_size((64, 160))
    image = torch.rand(1, 3, 64, 160)
    with torch.inference_mode():
        tokens = theirs.forward_features(image)[:, theirs.num_prefix_tokens :]
        found = ours.pyramid(image)[0]
    expected = tokens.transpose(1, 2).reshape(1, 32, 4, 10)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_guide_reads_stride_32_or_16():
    image = torch.rand(1, 3, 64, 96)
    maps = {}
    for stride in (None, 32, 16):
        torch.manual_seed(0)
        model = toy(backbone="vit", guide_stride=stride).eval()
        with torch.inference_mode():
            maps[stride] = model.backbone(image)
    pooled, fine = maps[None][-1], maps[16][-1]
    assert pooled.shape[2:] == (2, 3)
    assert torch.equal(maps[32][-1], pooled)
    by_hand = fine.reshape(1, 32, 2, 2, 3, 2).amax((3, 5))
    assert torch.equal(pooled, by_hand)
    dilated = toy(guide_stride=16)
    assert dilated.backbone.strides == (4, 8, 16, 16)


def test_skips_of_several_blocks():
    backbone = VitPyramid("vit_small_patch16_dinov3", skip_blocks=(0, 1, 1), options=SMALL)
    backbone.eval()
    with torch.inference_mode():
        first, second, third, top = backbone(torch.rand(1, 3, 32, 64))
    assert torch.equal(second, third)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(F.max_pool2d(third, 2), top)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: make_backbone(name="beit_base_patch16_224"), "positions for one image size only"),
        (lambda: make_backbone(name="vit_small_patch14_dinov"), "did you mean 'vit_"),
        (lambda: VitPyramid("test_vit", output_stride=8), "stride 16, and pooled at 32"),
        (lambda: VitPyramid("test_vit", multi_grid=(1, 2, 4)), "is a ViT, without dilation"),
        (lambda: VitPyramid("test_vit", skip_blocks=(0, 3, 6)), "the blocks of .* are 0 to 5"),
        (lambda: VitPyramid("test_vit", options={"patch_size": 20}), "patches of 20×20 pixels"),
        (lambda: VitPyramid("test_vit", options={"colour": 1}), "could not be built"),
        (lambda: VitPyramid("test_vit", pretrained="/nowhere.safetensors"), "there is no file"),
        (lambda: make_backbone(name="test_resnet", skip_blocks=(0, 1, 2)), "blocks of a ViT"),
        (lambda: toy(backbone="swin", guide_stride=16), "cannot be dilated to output stride 16"),
        (
            lambda: toy(backbone="vit", guide_stride=32, stride=2),
            "ends at stride 4; use 'u_sfpn'",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(make, words):
    with pytest.raises(HfgdError, match=words) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_two_strides_of_the_guide_are_refused():
    backbone = TOYS["test_resnet"].model_copy(update={"output_stride": 8})
    with pytest.raises(HfgdError, match=r"guide_stride 16 and backbone\.output_stride 8"):
        build(ModelSpec(backbone=backbone, guide_stride=16), ClassSet.numbered(2))


def test_layers_of_a_vit_are_its_blocks():
    """By the definition: block i of d gets decay^(d − i), what stands before them decay^(d + 1)."""
    for name in ("vit_small_patch14_reg4_dinov2", "deit_tiny_distilled_patch16_224"):
        spec = BackboneSpec(name=name, options=SMALL | {"depth": 3})
        model = build(ModelSpec(backbone=spec, width=32), ClassSet.numbered(3))
        scales = layer_scales(model, spec, 0.5)
        assert len(scales) == len(list(model.backbone.parameters()))
        for key, scale in scales.items():
            part = key.removeprefix("backbone.net.").split(".")
            below = 1 if part[0] == "norm" else 4 if part[0] != "blocks" else 3 - int(part[1])
            assert scale == 0.5**below, key
        optim = find_recipe("hfgd_vit_small_dinov2").optim
        groups = make_optimiser(model, optim, scales).param_groups
        decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        for key, parameter in model.backbone.net.named_parameters():
            free = parameter.ndim == 1 or key.endswith(("_token", "pos_embed"))
            assert decay[id(parameter)] == (0 if free else optim.weight_decay), key


def test_pretrained_weights_are_asked_for_as_timm_has_them(monkeypatch):
    """Up to the download: the network that timm is to fill, and the weights' name."""
    asked = []

    def load(model, pretrained_cfg, **more):
        asked.append((model.patch_embed.proj.weight.shape, pretrained_cfg["hf_hub_id"]))

    monkeypatch.setattr("timm.models._builder.load_pretrained", load)
    monkeypatch.setattr("hfgd.model.backbones.timm_pyramid._reachable", lambda url: True)
    backbone = find_recipe("hfgd_vit_small_dinov2").model.backbone
    make_backbone(**dict(backbone.model_copy(update={"options": SMALL})))
    ((shape, place),) = asked
    assert shape == (32, 3, 16, 16)
    assert "vit_small_patch14_reg4_dinov2" in place


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("convnext_tiny.dinov3_lvd1689m", "dinov3-license, terms of their publisher's own"),
        ("convnextv2_tiny.fcmae", "cc-by-nc-4.0, no commercial use"),
        ("vit_small_patch16_dinov3_qkvb.eupe_lvd1689m", "research-license, no commercial use"),
        ("vit_small_patch14_reg4_dinov2.lvd142m", "licence: apache-2.0$"),
        ("nobody_knows", "unknown; ask"),
    ],
)
def test_licences_in_words(name, words):
    assert re.search(words, licence_in_words(licence_of(name)))


def test_the_licence_is_shown_and_kept(run, tmp_path, monkeypatch):
    monkeypatch.setattr("hfgd.cost.measure_cost", lambda spec, classes, size: Cost(size, [], 0))
    code, out, _ = run("info", "hfgd_convnext_tiny_dinov3")
    assert code == 0
    assert "convnext_tiny.dinov3_lvd1689m: licence: dinov3-license, terms" in out
    name = "vit_small_patch16_dinov3.lvd1689m"
    model = hfgd.create(
        "sfpn_mobilenetv2", num_classes=3, backbone={"name": name, "options": SMALL}, width=32
    )
    model.save(tmp_path / "model")
    assert read_config(tmp_path / "model").licence_of_backbone == "dinov3-license"
    code, out, _ = run("info", tmp_path / "model")
    assert code == 0
    assert re.search("pre-trained weights +licence: dinov3-license, terms", out)
    loaded = hfgd.load(tmp_path / "model")
    facts = facts_of(loaded, loaded.config, "uint8", None, 1)
    assert facts.licence_of_backbone == "dinov3-license"
    assert TimmPyramid("test_resnet").licence == "apache-2.0"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hfgd_vit_small_dinov2", "hfgd_convnext_tiny_dinov3"])
def test_the_recipes_run_at_toy_size(name, tmp_path):
    """Trained with layer decay, scored, saved, loaded."""
    run = fit(toy_recipe(find_recipe(name)), tmp_path / "run")
    assert run.report.scores.matrix.sum() > 0
    again = load_model(tmp_path / "run").state_dict()
    assert all(torch.equal(again[key], value) for key, value in run.model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in FAMILIES.values() if "patch14" in n or "dinov3" in n])
def test_positions_are_resampled_in_the_exported_file_too(name, tmp_path):
    spec = BackboneSpec(name=name, options=SMALL | {"img_size": 112})
    parts = {"encoder": "identity", "upsampler": "none", "width": 32}
    model = build(ModelSpec(backbone=spec, **parts), ClassSet.numbered(5)).eval()
    with_positions(model.backbone.net)
    model.config = model.config.model_copy(update={"crop": (97, 131)})
    checked = model.export(tmp_path / "model.onnx")
    assert {c.what: c.size for c in checked}["smallest"] == (1, 1)
    assert max(c.logits for c in checked) < 1e-3
