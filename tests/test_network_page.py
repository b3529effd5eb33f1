"""Networks of one's own: the example with transformers' head, and the page's code, which runs."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch

import hfgd
from conftest import TOYS, recipe, same
from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.losses.terms import LossSpec, loss_terms
from hfgd.model import GUIDANCE, HFGM, ClassTokens
from hfgd.training.fit import fit

ROOT = Path(__file__).parent.parent
ABC = ClassSet.of(["a", "b", "c"])


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    yield importlib.import_module("segformer_head")
    del sys.modules["segformer_head"]


@pytest.mark.slow
def test_segformers_head_is_trained_saved_and_loaded(example, folder, tmp_path):
    network = example.guided_segformer(ABC, backbone="test_convnext", width=32)
    run = fit(recipe(folder, **{"train.iterations": 2}), tmp_path / "run", network=network)
    config = json.loads((tmp_path / "run/last/config.json").read_text())
    assert config["builder"] == {
        "name": "segformer_head:guided_segformer",
        "arguments": {"backbone": "test_convnext", "width": 32},
    }
    assert config["licence_of_backbone"] == "apache-2.0"
    loaded = hfgd.load(tmp_path / "run")
    assert same(loaded.state_dict(), run.model.state_dict())
    assert type(loaded.hfgm.upsampler.head).__module__.startswith("transformers.")


@pytest.mark.parametrize("backbone", TOYS)
def test_segformers_head_under_the_contract(example, backbone):
    """Every parameter learns, the fine loss stays in the student, any size goes in."""
    spec = TOYS[backbone]
    model = example.guided_segformer(ABC, backbone=spec.name, width=32, **spec.options).train()
    image, label = torch.rand(2, 3, 65, 47), torch.randint(0, 3, (2, 65, 47))
    terms = loss_terms(model(image), label, LossSpec())
    terms["fine"].backward(retain_graph=True)
    reached = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert reached == {"hfgm"}
    assert model.hfgm.tokens.weight.grad is None
    terms["guide"].backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]
    model.eval()
    with torch.inference_mode():
        for size in ((1, 1), (33, 90)):
            assert model(torch.rand(1, 3, *size)).full_size().shape == (1, 3, *size)


@pytest.mark.slow
def test_segformers_head_is_exported(example, tmp_path):
    model = example.guided_segformer(ABC, backbone="test_convnext", width=32).eval()
    model.config = model.config.model_copy(update={"crop": (97, 131)})
    checked = model.export(tmp_path / "model.onnx")
    assert max(c.logits for c in checked) < 1e-3


def test_loading_fetches_nothing(example, tmp_path, monkeypatch):
    """A builder that begins with timm's weights is called again without them."""
    fetched = []

    def load(model, **more):
        fetched.append(more)

    monkeypatch.setattr("timm.models._builder.load_pretrained", load)
    monkeypatch.setattr("hfgd.model.backbones.timm_pyramid._reachable", lambda url: True)
    model = example.guided_segformer(ABC, backbone="test_convnext", width=32, pretrained=True)
    assert len(fetched) == 1
    model.save(tmp_path / "model")
    loaded = hfgd.load(tmp_path / "model")
    assert same(loaded.state_dict(), model.state_dict())
    assert len(fetched) == 1


@pytest.mark.parametrize("give", [lambda skips, high: high[:, :7], lambda skips, high: high[0]])
def test_a_decoder_of_another_width_is_named(give):
    class Narrow(torch.nn.Module):
        def forward(self, skips, high):
            return give(skips, high)

    hfgm = HFGM(Narrow(), ClassTokens(3, 8), guidance=GUIDANCE)
    with pytest.raises(HfgdError, match=r"the upsampler Narrow gives .* needs \(batch, 8, height"):
        hfgm([], torch.rand(2, 8, 3, 4), True)


def test_the_pages_code_runs(tmp_path, monkeypatch):
    """Top to bottom; a block that begins with a file's name is that file."""
    text = (ROOT / "docs" / "network.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    values = {}
    for block in blocks:
        named = re.match(r"# (\w+\.py)\n", block)
        if named:
            Path(named[1]).write_text(block, encoding="utf-8")
        else:
            exec(block, values)
    assert type(values["model"].hfgm.upsampler).__name__ == "MyDecoder"
    assert values["result"].labels.shape == (40, 60)
    del sys.modules["my_nets"]
