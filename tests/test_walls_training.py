"""Training: averages, states and models of earlier versions, losses, rates, one sentence once."""

import json
import os

import pytest
import torch
import yaml
from safetensors.torch import save_file

import hfgd
from conftest import TOYS, recipe, same, toy, weights
from hfgd.data.classes import ClassSet
from hfgd.data.loader import EvalBatches, count_workers
from hfgd.data.open import open_dataset
from hfgd.errors import HfgdError, TrainingStopped
from hfgd.losses.terms import LossSpec, loss_terms
from hfgd.model import BackboneSpec, ModelSpec, Network, Segmenter, SegOutput
from hfgd.model.build import build
from hfgd.recipes import find_recipe
from hfgd.recipes.spec import Recipe
from hfgd.training import fit as fitting
from hfgd.training.callbacks import Average
from hfgd.training.failures import explained
from hfgd.training.fit import fit
from hfgd.training.optim import layer_scales, make_optimiser, rate_scales
from hfgd.training.run_folder import RunFolder
from processes import finished

ABC = ClassSet.of(["a", "b", "c"])

# ---- averages --------------------------------------------------------------------------------------


def test_the_average_of_a_swin_keeps_its_index_tables():
    """Floating-point tensors are averaged, as a loop of ours does; whole numbers are copied."""
    network = toy(backbone="swin")
    average = Average(network, 0.9, 0)
    whole = {k for k, v in network.state_dict().items() if not v.is_floating_point()}
    whole |= {k for k, v in network.named_buffers() if not v.is_floating_point()}
    assert any("relative_position_index" in key for key in whole)
    expected, generator = {}, torch.Generator().manual_seed(0)
    for step in range(4):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += torch.randn(parameter.shape, generator=generator)
        average.after_step(None, type("Module", (), {"network": network}), step + 1)
        for name, parameter in network.named_parameters():
            new = parameter.detach().double()
            expected[name] = new if step == 0 else 0.9 * expected[name] + 0.1 * new
    theirs = dict(network.named_buffers())
    for name, buffer in average.network.named_buffers():
        if name in whole:
            assert buffer.dtype == theirs[name].dtype
            assert torch.equal(buffer, theirs[name]), name
    for name, parameter in average.network.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_an_averaged_swin_is_trained_and_used(folder, tmp_path):
    changes = {"model": {"backbone": TOYS["swin"].model_dump(), "width": 16}, "train.ema": 0.9}
    run = fit(recipe(folder, **changes, **{"augment.crop": [64, 64]}), tmp_path / "run")
    loaded = hfgd.load(tmp_path / "run")
    fresh = dict(build(run.model.config.model, ABC).named_buffers())
    tables = [name for name in fresh if name.endswith("relative_position_index")]
    assert tables
    buffers = dict(loaded.named_buffers())
    assert all(torch.equal(buffers[name], fresh[name]) for name in tables)


# ---- a finished run that is resumed ------------------------------------------------------------------


class Place(str):
    """A device of a name of its own."""


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_finished_run_is_scored_on_the_runs_device(folder, tmp_path, monkeypatch, ema):
    """Lightning leaves the network on the CPU: it goes to the run's device before it is scored."""
    first = fit(recipe(folder, **{"train.ema": ema}), tmp_path / "run")
    done = json.loads((tmp_path / "run/report.json").read_text())
    for name in ("report.json", "report.md", "panels.png"):
        (tmp_path / "run" / name).unlink()
    events = []
    to, labeller = Segmenter.to, fitting.NetworkLabeller

    def moved(self, *words, **named):
        events.append(("to", id(self), words[0] if words else None))
        return to(self, *words, **named)

    def asked(network, **named):
        events.append(("labeller", id(network), None))
        return labeller(network, **named)

    monkeypatch.setattr(Segmenter, "to", moved)
    monkeypatch.setattr(fitting.TrainingJob, "device", property(lambda self: Place("cpu")))
    monkeypatch.setattr(fitting, "NetworkLabeller", asked)
    again = fit(None, tmp_path / "run", resume=True)
    ((_, network, _),) = [event for event in events if event[0] == "labeller"]
    before = events[: events.index(("labeller", network, None))]
    moves = [place for kind, who, place in before if kind == "to" and who == network]
    assert isinstance(moves[-1], Place)
    assert json.loads((tmp_path / "run/report.json").read_text())["confusion"] == done["confusion"]
    assert (tmp_path / "run/panels.png").is_file()
    assert same(first.model.state_dict(), again.model.state_dict())


# ---- OCR beside the auxiliary FCN --------------------------------------------------------------------


def test_ocr_beside_the_auxiliary_fcn_keeps_both_losses():
    model = toy(encoder="ocr", aux_fcn="joint", classes=4).train()
    label = torch.randint(0, 4, (2, 65, 65))
    output = model(torch.rand(2, 3, 65, 65))
    terms = loss_terms(output, label, LossSpec(aux=0.3, region=0.7))
    plain = loss_terms(output, label, LossSpec(aux=1, region=1))
    assert {"fine", "aux", "region"} <= terms.keys()
    torch.testing.assert_close(terms["aux"], 0.3 * plain["aux"])
    torch.testing.assert_close(terms["region"], 0.7 * plain["region"])
    assert not torch.equal(plain["aux"], plain["region"])
    heads = {"aux": model.aux_fcn.tokens.weight, "region": model.encoder.regions[-1].weight}
    for name, own in heads.items():
        for head, weight in heads.items():
            (gradient,) = torch.autograd.grad(
                terms[name], weight, retain_graph=True, allow_unused=True
            )
            assert (gradient is not None) == (head == name)
        assert torch.autograd.grad(terms[name], own, retain_graph=True)[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("content", "aux", "region"),
    [
        ({"model": {"encoder": "ocr"}, "loss": {"aux": 0.2}}, 0.2, 0.2),
        ({"base": "sfpn_resnet50", "model": {"encoder": "ocr"}, "loss": {"aux": 0.2}}, 0.2, 0.2),
        ({"base": "sfpn_resnet50", "model": {"encoder": "ocr"}}, 0.4, 0.4),
        ({"base": "sfpn_resnet50", "loss": {"aux": 0.2}}, 0.2, 0.4),
        ({"model": {"encoder": "ocr"}, "loss": {"aux": 0.2, "region": 0.3}}, 0.2, 0.3),
        ({"model": {"encoder": "ocr", "aux_fcn": "joint"}, "loss": {"aux": 0.2}}, 0.2, 0.4),
    ],
)
def test_a_recipe_of_an_earlier_version_keeps_its_region_loss(tmp_path, content, aux, region):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    loss = find_recipe(str(tmp_path / "mine.yaml")).loss
    assert (loss.aux, loss.region) == (aux, region)


def test_a_weight_of_the_base_is_kept(tmp_path):
    """Both heads: 'loss.aux' is the auxiliary FCN's, and says nothing of the region's."""
    model = {"encoder": "ocr", "aux_fcn": "joint"}
    whole = {"base": "sfpn_resnet50", "model": model, "loss": {"region": 0.7}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(whole))
    derived = {"base": str(tmp_path / "base.yaml"), "loss": {"aux": 0.2}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(derived))
    loss = find_recipe(str(tmp_path / "mine.yaml")).loss
    assert (loss.aux, loss.region) == (0.2, 0.7)


# ---- states and models -------------------------------------------------------------------------------


def test_a_state_holds_each_tensor_once_and_an_old_one_resumes(folder, tmp_path):
    whole = fit(recipe(folder), tmp_path / "whole")
    half = fit(recipe(folder), tmp_path / "half")
    state = torch.load(tmp_path / "half/state.ckpt", weights_only=True)
    names = set(half.model.state_dict())
    assert set(state["state_dict"]) == {f"network.{name}" for name in names}
    old = recipe(folder, **{"train.iterations": 12})
    for out in ("half", "whole"):
        (tmp_path / out / "recipe.yaml").write_text(old.yaml())  # goes on for four iterations more
    tensors = state["state_dict"]
    for key in list(tensors):
        tensors[f"run.{key.removeprefix('network.')}"] = tensors[key]
    torch.save(state, tmp_path / "half/state.ckpt")
    fit(None, tmp_path / "half", resume=True)
    fit(None, tmp_path / "whole", resume=True)
    assert same(weights(tmp_path / "half"), weights(tmp_path / "whole"))
    assert not same(weights(tmp_path / "half"), whole.model.state_dict())
    again = torch.load(tmp_path / "half/state.ckpt", weights_only=True)
    assert set(again["state_dict"]) == {f"network.{name}" for name in names}


def test_a_model_of_format_1_gives_the_same_logits(tmp_path):
    """The whole recipe stood in its config.json, with its writer's paths, and loose facts."""
    spec = ModelSpec(backbone=BackboneSpec(name="test_resnet"), encoder="ocr", width=16)
    model = build(spec, ABC).eval()
    backbone = {
        "name": "test_resnet", "pretrained": "/there/is/no/such.pth", "output_stride": 32,
        "multi_grid": None, "bn_momentum": None, "mean": None, "std": None, "options": {},
    }  # fmt: skip
    guidance = {"share_tokens": False, "stop_tokens": False, "stop_features": False}
    written = {
        "format": 1,
        "recipe": {
            "name": "toy",
            "description": "",
            "model": {
                "backbone": backbone, "encoder": "ocr", "upsampler": "sfpn", "stride": 4,
                "width": 16, "guidance": guidance, "axial_attention": False, "aux_fcn": "none",
            },
            "data": {"location": "/nor/this", "train_split": "train", "val_split": "val"},
            "augment": {"crop": [129, 161], "flip": 0.5},
            "loss": {"fine": 1.0, "guide": 1.0, "aux": 0.4, "car": 1.0},
            "train": {"iterations": 8, "workers": 2},
            "branch": "fine",
        },
        "classes": ["a", "b", "c"],
        "palette": [[128, 0, 0], [0, 128, 0], [128, 128, 0]],
        "mean": [0.25, 0.5, 0.5],
        "std": [0.5, 0.5, 0.25],
        "iteration": 8,
        "mIoU": 0.25,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(written))
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors"
    )
    loaded = hfgd.load(tmp_path)
    image = torch.rand(1, 3, 50, 70)
    model.backbone.mean = torch.tensor([0.25, 0.5, 0.5]).view(3, 1, 1)
    model.backbone.std = torch.tensor([0.5, 0.5, 0.25]).view(3, 1, 1)
    assert torch.equal(loaded(image).logits, model(image).logits)
    assert loaded.config.crop == (129, 161)
    assert loaded.config.name == "toy"
    assert loaded.config.facts == {"iteration": 8, "mIoU": 0.25}
    loaded.save(tmp_path / "new")
    assert torch.equal(hfgd.load(tmp_path / "new")(image).logits, model(image).logits)


def test_a_config_publishes_no_path(folder, tmp_path):
    import timm

    start = timm.create_model("test_resnet", pretrained=False)
    save_file(start.state_dict(), tmp_path / "start.safetensors")
    first = fit(
        recipe(folder, **{"model.backbone.pretrained": str(tmp_path / "start.safetensors")}),
        tmp_path / "run",
    )
    second = recipe(folder, **{"train.init": str(tmp_path / "run")})
    fit(second, tmp_path / "tuned")
    assert str(tmp_path) in (tmp_path / "run/recipe.yaml").read_text()
    for name in ("run/last", "run/best", "tuned/last", "tuned/best"):
        text = (tmp_path / name / "config.json").read_text()
        assert str(tmp_path) not in text
        assert json.loads(text)["format"] == 2
    assert hfgd.load(tmp_path / "run").config.model.backbone.pretrained is False
    assert first.report.scores.matrix.sum() > 0


# ---- one sentence, once ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "optim.lr=-1",
            "optim.lr: Input should be greater than 0",
        ),  # seen before the processes start
        pytest.param(
            "loss.class_weights=[1.0, 2.0]",
            "loss.class_weights has 2 weights for 9 classes",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "train.batch_size=3",
            "train.batch_size 3 is the batch over all processes",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_mistake_is_said_once_by_many_processes(tmp_path, setting, sentence):
    command = ["hfgd", "train", "demo_sfpn", "--toy", "--data", "scenes", "--devices", 2]
    done = finished([*command, "--out", tmp_path / "run", "--set", setting], code=2)
    lines = [line for line in done.err.splitlines() if line.startswith("hfgd: ")]
    assert sentence in lines[0]
    assert sum(sentence in line for line in lines) == 1
    assert lines[1:] == [] or [line.partition(" of 2 ended")[1] for line in lines[1:]] == [
        " of 2 ended"
    ]
    assert not (tmp_path / "run").exists()


def test_an_operation_without_a_deterministic_kind_is_named(folder, tmp_path, monkeypatch):
    """What PyTorch raises on GPUs for some poolings and deformable convolutions."""
    import torch.nn.functional as F

    def refusing(*words, **named):
        raise RuntimeError(
            "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you "
            "set 'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for ..."
        )

    monkeypatch.setattr(F, "adaptive_avg_pool2d", refusing)
    changes = {"model.encoder": "ppm", "train.deterministic": True}
    try:
        with pytest.raises(TrainingStopped) as stopped:
            fit(recipe(folder, **changes), tmp_path / "run")
    finally:
        torch.use_deterministic_algorithms(False)
    assert "train.deterministic: 'adaptive_avg_pool2d_backward_cuda' has no" in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_pytorchs_own_refusal_is_recognised(tmp_path):
    """The words of the installed version, from an operation that has no deterministic kind on CPUs."""
    torch.use_deterministic_algorithms(True)
    try:
        with (
            pytest.raises(TrainingStopped, match=r"train.deterministic: '"),
            explained(RunFolder(tmp_path)),
        ):
            refused_operation()
    finally:
        torch.use_deterministic_algorithms(False)


def refused_operation():
    x = torch.rand(1, 1, 4, 4, requires_grad=True)
    torch.nn.functional.max_unpool2d(x, torch.arange(16).view(1, 1, 4, 4), 1).sum().backward()


@pytest.mark.parametrize("part", [{"model.encoder": "ppm"}, {"model.upsampler": "fapn"}])
def test_a_cpu_trains_all_of_them_deterministically(folder, tmp_path, part):
    changes = {"train.deterministic": True, "train.iterations": 2}
    try:
        for out in ("one", "two"):
            fit(recipe(folder, **part, **changes), tmp_path / out)
    finally:
        torch.use_deterministic_algorithms(False)
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))


# ---- rates -------------------------------------------------------------------------------------------


def rates(model, whole):
    """The rate of every parameter by name."""
    optimiser = make_optimiser(model, whole.optim, rate_scales(model, whole))
    by_tensor = {id(p): g["lr"] for g in optimiser.param_groups for p in g["params"]}
    return {name: by_tensor[id(parameter)] for name, parameter in model.named_parameters()}


def test_rates_of_backbone_and_heads(folder):
    whole = recipe(folder, **{"optim.lr": 0.02, "optim.backbone_lr": 0.1, "optim.head_lr": 3.0})
    model = build(whole.model, ABC)
    found = rates(model, whole)
    assert len(found) == len(list(model.parameters()))
    for name, rate in found.items():
        assert rate == pytest.approx(0.02 * (0.1 if name.startswith("backbone.") else 3.0)), name
    layered = whole.with_(**{"optim.layer_decay": 0.5})
    decays = layer_scales(model, whole.model.backbone, 0.5)
    assert len(set(decays.values())) > 3
    for name, rate in rates(model, layered).items():
        factor = 0.1 * decays[name] if name.startswith("backbone.") else 3.0
        assert rate == pytest.approx(0.02 * factor), name


class Bare(Network):
    """A network that has no backbone to tell apart."""

    def __init__(self):
        super().__init__()
        from hfgd.types import Grid

        self.classes, self.grid, self.mean = ABC, Grid.CELLS, torch.full((3, 1, 1), 0.5)
        self.layer = torch.nn.Conv2d(3, 3, 1)

    def forward(self, image, all_branches=None):
        from hfgd.types import Frame

        size = (image.shape[-2], image.shape[-1])
        return SegOutput(self.layer(image), None, None, None, None, Frame(size, size, self.grid))


@pytest.mark.parametrize("changes", [{"optim.backbone_lr": 0.1}, {"optim.layer_decay": 0.9}])
def test_rates_of_a_backbone_need_one(folder, tmp_path, changes):
    with pytest.raises(
        HfgdError, match=r"optim.backbone_lr and optim.layer_decay need a network that"
    ):
        fit(recipe(folder, **changes), tmp_path / "run", network=Bare())
    assert not (tmp_path / "run").exists()
    assert rates(Bare(), Recipe(name="x").with_(**{"optim.lr": 0.5})) == {
        "layer.weight": 0.5,
        "layer.bias": 0.5,
    }


# ---- the processes that read --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "processes", "share"), [(8, 2, 4), (6, 4, 1), (2, 4, 1), (64, 2, 8)]
)
def test_workers_share_the_cores(monkeypatch, cores, processes, share):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert count_workers("auto") == share
    assert count_workers(3) == 3
    assert Recipe(name="x").train.workers == "auto"


def test_validation_keeps_its_reading_processes(folder):
    val = open_dataset(str(folder), "val")
    kept, fresh = (EvalBatches(val, 1, keep=keep) for keep in (True, False))

    def readers(batches):
        """The processes that read during one pass."""
        passing = batches._started()
        found = [worker.pid for worker in passing._workers]
        names = [sample.name for sample in passing]
        assert names == ["val0", "val1"]
        return found

    with kept, fresh:
        assert readers(kept) == readers(kept)
        assert readers(fresh) != readers(fresh)


def test_fit_keeps_them_over_its_validations(folder, tmp_path, monkeypatch):
    seen = []
    evaluate = fitting.evaluate

    def scoring(labeller, dataset, **named):
        seen.append(named["batches"].loader)
        scores = evaluate(labeller, dataset, **named)
        seen.append([worker.pid for worker in named["batches"].loader._iterator._workers])
        return scores

    monkeypatch.setattr(fitting, "evaluate", scoring)
    fit(recipe(folder, **{"train.workers": 1, "train.validate_every": 4}), tmp_path / "run")
    (first, one), (second, two) = seen[:2], seen[2:]
    assert first is second
    assert one == two
