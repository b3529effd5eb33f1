"""Networks of one's own: made by a marked function or by hand, trained, resumed, saved, loaded."""

import importlib
import json
import sys

import numpy as np
import pytest
import torch

import hfgd
from conftest import recipe, same
from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.evaluation.evaluate_model import EvalConfig, evaluate_model
from hfgd.inference.labeller import InferenceConfig
from hfgd.model.network import evaluating
from hfgd.training.fit import fit

ABC = ClassSet.of(["a", "b", "c"])

MODULE = '''
import torch
import torch.nn.functional as F
from torch import nn

import hfgd
from hfgd.types import Frame, Grid
from hfgd.model import SegOutput, Segmenter
from hfgd.model.backbones import make_backbone
from hfgd.model.hfgm import ClassTokens
from hfgd.model.encoders.identity import Identity
from hfgd.model.hfgm import HFGM
from hfgd.model.config import NO_GUIDANCE


class Sum(nn.Module):
    """(skips, high) -> the sum of all maps at the finest one's size."""

    def __init__(self, widths, width):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(w, width, 1) for w in widths)

    def forward(self, skips, high):
        maps = [layer(x) for layer, x in zip(self.layers, skips)] + [high]
        return sum(F.interpolate(x, maps[0].shape[-2:], mode="bilinear") for x in maps)


@hfgd.builder
def composed(classes, width=8, backbone="test_resnet"):
    pyramid = make_backbone(name=backbone)
    *skips, top = pyramid.widths
    hfgm = HFGM(Sum(skips, width), ClassTokens(len(classes), width), None, NO_GUIDANCE)
    return Segmenter(pyramid, Identity(top, width), hfgm, classes)


class Own(hfgd.Network):
    """No backbone, no tokens: three convolutions on cells of four pixels."""

    def __init__(self, classes, width):
        super().__init__()
        self.classes, self.grid = classes, Grid.CELLS
        self.mean = torch.full((3, 1, 1), 0.5)
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 4, 4),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, len(classes), 1),
        )

    def forward(self, image, all_branches=None):
        size = (image.shape[-2], image.shape[-1])
        frame = Frame(size, self.grid.padded(size, 4), self.grid)
        x = F.pad(image - 0.5, (0, frame.padded[1] - size[1], 0, frame.padded[0] - size[0]))
        return SegOutput(self.body(x), None, None, None, None, frame)


@hfgd.builder
def own(classes, width=8):
    return Own(classes, width)


def unmarked(classes):
    raise AssertionError("was called")


class Sly:
    """Answers every question about itself with yes."""

    def __getattr__(self, name):
        return "yes"

    def __call__(self, *words, **named):
        raise AssertionError("was called")


sly = Sly()


def inside():
    @hfgd.builder
    def hidden(classes):
        return Own(classes, 8)

    return hidden
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of a user's own, on the path."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/mine_of_walls.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield importlib.import_module("mine_of_walls")
    del sys.modules["mine_of_walls"]


def logits(network, seed=1):
    image = torch.rand(1, 3, 50, 70, generator=torch.Generator().manual_seed(seed))
    with evaluating(network):
        return network(image).logits


def test_a_created_model_is_saved_and_loaded(tmp_path):
    model = hfgd.create(
        "sfpn_resnet50", classes=["a", "b"], backbone={"name": "test_resnet"}, width=16
    )
    folder = model.save(tmp_path / "model", note="by hand")
    assert folder == tmp_path / "model"
    loaded = hfgd.load(folder)
    assert same(loaded.state_dict(), model.state_dict())
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.classes.names == ("a", "b")
    assert loaded.config.facts == {"note": "by hand"}
    assert loaded.config.name == "sfpn_resnet50"
    assert not loaded.training


@pytest.mark.parametrize("name", ["composed", "own"])
def test_a_network_of_ones_own_is_trained_resumed_and_loaded(folder, tmp_path, mine, name):
    make = getattr(mine, name)
    short = recipe(folder, **{"train.iterations": 4})
    run = fit(short, tmp_path / "run", network=make(ABC, width=12))
    config = json.loads((tmp_path / "run/last/config.json").read_text())
    assert config["builder"] == {"name": f"mine_of_walls:{name}", "arguments": {"width": 12}}
    assert "model" not in config
    loaded = hfgd.load(tmp_path / "run")
    assert type(loaded).__name__ == {"composed": "Segmenter", "own": "Own"}[name]
    assert same(loaded.state_dict(), run.model.state_dict())
    torch.testing.assert_close(logits(loaded), logits(run.model))  # the one in channels last
    report, _ = evaluate_model(
        str(tmp_path / "run"), EvalConfig(str(folder)), InferenceConfig(), tmp_path / "eval"
    )
    assert np.array_equal(report.scores.matrix, run.report.scores.matrix)
    # it goes on without the network being given: the recipe names the function
    stored = (tmp_path / "run/recipe.yaml").read_text()
    (tmp_path / "run/recipe.yaml").write_text(stored.replace("iterations: 4", "iterations: 8"))
    fit(None, tmp_path / "run", resume=True)
    again = hfgd.load(tmp_path / "run")
    assert again.config.facts["iteration"] == 8
    assert not same(again.state_dict(), run.model.state_dict())
    assert again.config.crop == (33, 33)


def config_with(tmp_path, mine, name):
    """A saved model whose config names another function."""
    mine.own(ABC).save(tmp_path / "model")
    file = tmp_path / "model/config.json"
    content = json.loads(file.read_text())
    content["builder"]["name"] = name
    file.write_text(json.dumps(content))
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("os:system", "holds no 'os'"),
        ("json:loads", "holds no 'json'"),
        ("mine_of_walls:unmarked", "'mine_of_walls:unmarked' is not marked as a builder"),
        ("mine_of_walls:sly", "'mine_of_walls:sly' is not marked as a builder"),
        ("no_such_module_of_anyone:make", "holds no 'no_such_module_of_anyone'"),
        ("mine_of_walls:gone", "cannot be imported"),
        (".mine:own", "'builder.name' is missing or wrong"),
        ("mine_of_walls:Sly.x", "'builder.name' is missing or wrong"),
        ("os", "'builder.name' is missing or wrong"),
    ],
)
def test_only_marked_functions_are_called(tmp_path, mine, monkeypatch, name, sentence):
    import os

    def called(*words):
        raise AssertionError("was called")

    monkeypatch.setattr(os, "system", called)
    model = config_with(tmp_path, mine, name)
    with pytest.raises(HfgdError, match=r"buil") as refused:
        hfgd.load(model, code=tmp_path / "code")
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_function_that_cannot_be_found_again_is_not_named(tmp_path, mine):
    """One inside another function: its network is saved, and loaded into one that is given."""
    network = mine.inside()(ABC)
    network.save(tmp_path / "model")
    with pytest.raises(HfgdError, match=r"hfgd.load\(path, network=...\)"):
        hfgd.load(tmp_path / "model")
    loaded = hfgd.load(tmp_path / "model", network=mine.inside()(ABC))
    assert same(loaded.state_dict(), network.state_dict())


def test_a_network_by_hand_is_loaded_into_one_that_is_given(folder, tmp_path, mine):
    run = fit(recipe(folder, **{"train.iterations": 4}), tmp_path / "run", network=mine.Own(ABC, 8))
    with pytest.raises(HfgdError, match="put together in Python without a builder"):
        hfgd.load(tmp_path / "run")
    loaded = hfgd.load(tmp_path / "run", network=mine.Own(ABC, 8))
    assert same(loaded.state_dict(), run.model.state_dict())
    torch.testing.assert_close(logits(loaded), logits(run.model))  # the one in channels last
    with pytest.raises(HfgdError, match="knows other classes"):
        hfgd.load(tmp_path / "run", network=mine.Own(ClassSet.of(["a", "b", "d"]), 8))
    with pytest.raises(HfgdError, match=r"body.0.weight"):
        hfgd.load(tmp_path / "run", network=mine.Own(ABC, 9))


def test_a_run_of_a_network_by_hand_goes_on_with_one_that_is_given(folder, tmp_path, mine):
    fit(recipe(folder), tmp_path / "run", network=mine.Own(ABC, 8))
    stored = (tmp_path / "run/recipe.yaml").read_text()
    (tmp_path / "run/recipe.yaml").write_text(stored.replace("iterations: 8", "iterations: 12"))
    with pytest.raises(HfgdError, match="put together in Python without a builder"):
        fit(None, tmp_path / "run", resume=True)
    fit(None, tmp_path / "run", resume=True, network=mine.Own(ABC, 8))
    assert hfgd.load(tmp_path / "run", network=mine.Own(ABC, 8)).config.facts["iteration"] == 12
