"""Saved models: what goes in comes out; what is damaged or foreign is named."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import hfgd
from conftest import TOYS
from hfgd.checkpoint import load_model, save_model
from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.model import BackboneSpec, ModelSpec
from hfgd.model.backbones import TimmPyramid
from hfgd.model.build import build
from hfgd.recipes.spec import Recipe

CLASSES = ClassSet.of(["sky", "road"], [(1, 2, 3), (4, 5, 6)])


@pytest.fixture
def saved(tmp_path):
    recipe = Recipe(name="toy", model=ModelSpec(backbone=TOYS["test_resnet"], width=16))
    model = build(recipe.model, CLASSES)
    model.backbone.mean.fill_(0.25)  # a checkpoint carries its own normalisation
    save_model(model, tmp_path / "model", {"iteration": 7})
    return tmp_path / "model", model


def test_round_trip(saved):
    folder, model = saved
    again = load_model(folder)
    assert again.classes == CLASSES
    image = torch.rand(1, 3, 50, 40)
    with torch.inference_mode():
        assert torch.equal(again(image).logits, model.eval()(image).logits)
    assert not again.training


def test_loading_never_unpickles(saved, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("unpickled")

    monkeypatch.setattr("pickle.load", forbidden)
    monkeypatch.setattr("pickle.loads", forbidden)
    monkeypatch.setattr("torch.load", forbidden)
    assert hfgd.load(saved[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_pretrained_backbone_is_not_fetched_when_loading(tmp_path, dtype):
    spec = BackboneSpec(name="test_resnet", pretrained=True)
    recipe = Recipe(name="toy", model=ModelSpec(backbone=spec, width=16))
    random = recipe.model.model_copy(update={"backbone": TOYS["test_resnet"]})
    save_model(build(random, CLASSES), tmp_path / "model")
    assert load_model(tmp_path / "model").classes == CLASSES


def damage(folder, kind):
    weights, config = folder / "model.safetensors", folder / "config.json"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "foreign weights":
        save_file({"other": torch.zeros(3)}, weights)
    elif kind == "reshaped":
        content = json.loads(config.read_text())
        content["model"]["width"] = 32
        config.write_text(json.dumps(content))
    elif kind == "no weights":
        weights.unlink()
    elif kind == "no config":
        config.unlink()
    elif kind == "cut config":
        config.write_text(config.read_text()[:40])
    elif kind == "foreign config":
        config.write_text("{}")
    elif kind == "newer":
        config.write_text(config.read_text().replace('"format": 2', '"format": 99'))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "truncated or no safetensors"),
        ("foreign weights", "does not belong to its config.json"),
        ("reshaped", "do not belong together"),
        ("no weights", "there is no file"),
        ("no config", "holds no model"),
        ("cut config", "no valid JSON"),
        ("foreign config", "not the configuration of an hfgd model"),
        ("newer", "newer hfgd"),
    ],
)
def test_damaged_models_are_named(saved, kind, words):
    damage(saved[0], kind)
    with pytest.raises(HfgdError, match=words):
        load_model(saved[0])


def test_create_is_short():
    model = hfgd.create("hfgd_mobilenetv2", num_classes=3, width=16)
    result = model.predict(np.zeros((50, 70, 3), dtype=np.uint8))
    assert result.labels.shape == (50, 70)
    assert hfgd.create("sfpn_mobilenetv2", classes=["a", "b"]).classes.names == ("a", "b")
    with pytest.raises(HfgdError, match="either num_classes"):
        hfgd.create("hfgd_mobilenetv2")
    with pytest.raises(HfgdError, match="did you mean 'hfgd_mobilenetv2'"):
        hfgd.create("hfgd_mobilenet", num_classes=3)
    with pytest.raises(HfgdError, match="no key named 'encodr'"):
        hfgd.create("hfgd_mobilenetv2", num_classes=3, encodr="cae")


# ---- pre-trained backbones ------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_local_backbone_weights(tmp_path, suffix):
    import timm

    torch.manual_seed(5)
    whole = timm.create_model("test_resnet")
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(whole.state_dict(), path)
    else:
        save_file(whole.state_dict(), path)
    backbone = TimmPyramid("test_resnet", pretrained=str(path))
    assert torch.equal(backbone.net.conv1[0].weight, whole.conv1[0].weight)
    assert torch.equal(backbone.net.layer4[0].conv1.weight, whole.layer4[0].conv1.weight)


def test_local_backbone_weights_that_do_not_fit(tmp_path):
    import timm

    weights = timm.create_model("test_resnet").state_dict()
    path = tmp_path / "weights.safetensors"
    save_file({k: v for k, v in weights.items() if k != "layer1.0.conv1.weight"}, path)
    with pytest.raises(HfgdError, match=r"lacks 1 of .* 'layer1\.0\.conv1\.weight' first"):
        TimmPyramid("test_resnet", pretrained=str(path))
    save_file(weights | {"layer1.0.conv1.weight": torch.zeros(1, 2, 3, 3)}, path)
    with pytest.raises(HfgdError, match=r"'layer1\.0\.conv1\.weight'.* has shape \[1, 2, 3, 3\]"):
        TimmPyramid("test_resnet", pretrained=str(path))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(HfgdError, match="cannot be read"):
        TimmPyramid("test_resnet", pretrained=str(path))


def test_pickled_backbone_weights_are_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(HfgdError, match="holds more than tensors"):
        TimmPyramid("test_resnet", pretrained=str(tmp_path / "trap.pth"))
    assert not (tmp_path / "sprung").exists()


def test_offline_without_a_cache_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        HfgdError, match=r"not in the local cache.*model\.backbone\.pretrained=PATH"
    ):
        TimmPyramid("resnet18", pretrained=True)


def test_real_weights_give_other_features_than_random_ones(shared):
    path = shared / "weights" / "mobilenetv2_100_imagenet.safetensors"
    if not path.is_file():
        pytest.skip("no real weights there")
    real = TimmPyramid("mobilenetv2_100", pretrained=str(path)).eval()
    stored = load_file(path)
    assert torch.equal(real.net.conv_stem.weight, stored["conv_stem.weight"].float())
    assert real.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert real.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    random = TimmPyramid("mobilenetv2_100").eval()
    image = torch.rand(1, 3, 97, 97)
    with torch.inference_mode():
        a, b = real(image)[-1], random(image)[-1]
    assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) < 0.5
