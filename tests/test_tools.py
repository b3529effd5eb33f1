"""The tools of the trade: averages, layer decay, warm-up, clipping, freezing, fine-tuning, compile."""

import copy
import sys

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from conftest import TOYS, recipe, same, toy, weights
from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.losses.terms import LossSpec, loss_terms
from hfgd.model import ModelSpec
from hfgd.model.build import build
from hfgd.model.config import GUIDANCE
from hfgd.recipes.spec import OptimSpec
from hfgd.training.fit import fit
from hfgd.training.module import LitSegmenter, without_slow_strides
from hfgd.training.optim import layer_scales, make_optimiser, poly_schedule

FULL = {"encoder": "cae", "upsampler": "u_sfpn", "guidance": GUIDANCE, "axial_attention": True}


def column(run, name):
    header, *rows = (run / "logs/train.csv").read_text().splitlines()
    place = header.split(",").index(name)
    return np.array([float(row.split(",")[place]) for row in rows])


def test_the_average_is_that_of_the_weights(folder, tmp_path, monkeypatch):
    """Against the definition, from the weights after every step; it is what is scored and saved."""
    from hfgd.training.callbacks import Average

    seen = []
    step = Average.after_step

    def watched(self, trainer, module, done):
        seen.append({k: v.clone() for k, v in module.network.state_dict().items()})
        step(self, trainer, module, done)

    monkeypatch.setattr(Average, "after_step", watched)
    run = fit(recipe(folder, **{"train.ema": 0.8}), tmp_path / "run")
    expected = dict(seen[0])
    for later in seen[1:]:
        for key, value in later.items():
            if value.is_floating_point():
                expected[key] = 0.8 * expected[key] + 0.2 * value
    stored = weights(tmp_path / "run")
    for key, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(stored[key], value, rtol=1e-4, atol=1e-6)
    assert not same(stored, seen[-1])
    assert same(stored, run.model.state_dict())


@pytest.mark.parametrize("backbone", ["swin", "test_convnext", "test_resnet"])
def test_layer_decay_follows_timms_own_groups(backbone):
    """Against timm's parameter groups of the whole network, name by name."""
    import timm
    from timm.optim import param_groups_layer_decay

    spec = ModelSpec(backbone=TOYS[backbone], width=16)
    model = build(spec, ClassSet.numbered(3))
    scales = layer_scales(model, spec.backbone, 0.7)
    whole = timm.create_model(spec.backbone.name, **spec.backbone.options)
    names = {id(p): n for n, p in whole.named_parameters()}
    theirs = {
        names[id(p)].replace(".", "_"): group["lr_scale"]
        for group in param_groups_layer_decay(whole, layer_decay=0.7)
        for p in group["params"]
    }
    assert len(scales) == len(list(model.backbone.parameters()))
    for name, scale in scales.items():
        short = name.removeprefix("backbone.net.").replace(".", "_")
        assert scale == pytest.approx(theirs[short]), name
    assert len(set(scales.values())) > 3
    optimiser = make_optimiser(model, OptimSpec(lr=0.1), scales)
    rates = {id(p): g["lr"] for g in optimiser.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.1 * scales.get(name, 1.0)), name
    schedule = poly_schedule(optimiser, 10, 0.9)
    optimiser.step()
    schedule.step()
    rate = optimiser.param_groups[-1]["lr"] / optimiser.param_groups[-1]["initial_lr"]
    assert rate == pytest.approx(0.9**0.9)


def test_layer_decay_needs_layers_that_timm_knows(folder, tmp_path, monkeypatch):
    import timm

    create = timm.create_model

    def without(name, **options):
        model = create(name, **options)
        model.group_matcher = None
        return Hidden(model) if not options.get("features_only") else model

    class Hidden:
        def __init__(self, model):
            self.named_parameters = model.named_parameters

    monkeypatch.setattr("hfgd.training.optim.timm.create_model", without)
    with pytest.raises(HfgdError, match="timm knows no layers of 'test_resnet'"):
        fit(recipe(folder, **{"optim.layer_decay": 0.9}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_with_layer_decay_trains(folder, tmp_path):
    """The lowest layer of the toy moves less than the class tokens' neighbour, by its factor."""
    settings = {"train.iterations": 1, "optim.momentum": 0.0, "optim.weight_decay": 0.0}
    for decay in (None, 0.1):
        fit(recipe(folder, **settings, **{"optim.layer_decay": decay}), tmp_path / str(decay))
    before = first_weights(folder)
    plain, decayed = (weights(tmp_path / name) for name in ("None", "0.1"))
    key = "backbone.net.conv1.0.weight"
    moved = [(after[key] - before[key]).norm() for after in (plain, decayed)]
    scale = layer_scales(network(folder), recipe(folder).model.backbone, 0.1)[key]
    assert scale < 0.01
    assert moved[1] < moved[0] / 20
    torch.testing.assert_close(plain["hfgm.tokens.weight"], decayed["hfgm.tokens.weight"])


def test_warm_up_rises_to_the_schedule():
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    plain = poly_schedule(optimiser, 100, 0.9).lr_lambdas[0]
    warm = poly_schedule(optimiser, 100, 0.9, warmup=4).lr_lambdas[0]
    assert [warm(t) / plain(t) for t in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_clipping_bounds_the_step(folder, tmp_path):
    """With SGD without momentum a step is lr · gradient, so its length is at most lr · norm."""
    short = {"train.iterations": 1, "optim.momentum": 0.0, "optim.weight_decay": 0.0}
    torch.manual_seed(0)
    before = {k: v.clone() for k, v in first_weights(folder).items()}
    lengths = {}
    for clip in (None, 0.5):
        fit(recipe(folder, **short, **{"optim.clip_norm": clip}), tmp_path / str(clip))
        after = weights(tmp_path / str(clip))
        moved = [(after[k] - before[k]).flatten() for k in parameters()]
        lengths[clip] = torch.cat(moved).norm().item()
    assert lengths[0.5] == pytest.approx(0.01 * 0.5, rel=1e-3)
    assert lengths[None] > 2 * lengths[0.5]


def network(data):
    torch.manual_seed(0)
    return build(recipe(data).model, ClassSet.of(["a", "b", "c"]))


def first_weights(data):
    return network(data).state_dict()


def parameters():
    return [name for name, _ in network("anywhere").named_parameters()]


def test_a_frozen_backbone_keeps_weights_and_statistics(folder, tmp_path):
    before = first_weights(folder)
    fit(recipe(folder, **{"train.freeze": ["backbone"]}), tmp_path / "run")
    after = weights(tmp_path / "run")
    inside = [key for key in after if key.startswith("backbone.")]
    assert any("running_mean" in key for key in inside)
    assert same({k: before[k] for k in inside}, {k: after[k] for k in inside})
    rest = [key for key in after if key not in inside and "weight" in key]
    assert all(not torch.equal(before[key], after[key]) for key in rest)


def test_frozen_batch_norms_keep_statistics_and_train_weights(folder, tmp_path):
    before = first_weights(folder)
    fit(recipe(folder, **{"train.freeze": ["batch_norm"]}), tmp_path / "run")
    after = weights(tmp_path / "run")
    for key in after:
        if "running" in key or "num_batches" in key:
            assert torch.equal(before[key], after[key]), key
    assert not torch.equal(
        before["backbone.net.conv1.0.weight"], after["backbone.net.conv1.0.weight"]
    )


def test_accumulation_keeps_the_iteration(folder, tmp_path):
    """Two halves of a batch make one step: that of the whole, where no statistics are taken.

    The authors' normalisation divides by all pixels, so the mean of halves is that of the whole.
    """
    same_sums = {"train.batch_size": 4, "train.freeze": ["batch_norm"], "loss.normalise": "all"}
    same_sums |= {"loss.car": 0.0, "train.iterations": 6, "optim.clip_norm": 5.0}
    whole = recipe(folder, **same_sums)
    fit(whole, tmp_path / "whole")
    fit(whole.with_(**{"train.accumulate": 2}), tmp_path / "halves")
    rows = column(tmp_path / "halves", "iteration")
    assert rows.tolist() == [1, 2, 3, 4, 5, 6]
    for name in ("lr", "loss", "fine", "guide"):
        a, b = (column(tmp_path / run, name) for run in ("whole", "halves"))
        np.testing.assert_allclose(a, b, rtol=2e-4)
    for key, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "halves")[key], value, rtol=1e-3, atol=1e-5)
    with pytest.raises(
        HfgdError, match=r"batch_size 4 .* train\.accumulate 3; choose a multiple of 3"
    ):
        fit(whole.with_(**{"train.accumulate": 3}), tmp_path / "thirds")
    assert not (tmp_path / "thirds").exists()


@pytest.mark.parametrize("backbone", TOYS)
@pytest.mark.parametrize("training", [True, False])
def test_the_network_compiles_without_a_graph_break(backbone, training):
    """Traced whole; the eager backend then runs what was traced."""
    model = toy(backbone=backbone, **FULL).train(training)
    image = torch.rand(2, 3, 64, 96)
    torch._dynamo.reset()
    compiled = torch.compile(model.forward, backend="eager", fullgraph=True)
    torch.manual_seed(1)  # drop path draws
    expected = model(image)
    torch.manual_seed(1)
    found = compiled(image)
    assert found.frame == expected.frame
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_run_is_the_plain_run(folder, tmp_path, monkeypatch):
    compiled = torch.compile
    calls = []

    def eager(function):
        calls.append(function)
        return compiled(function, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", eager)
    short = {"train.iterations": 3}
    fit(recipe(folder, **short), tmp_path / "plain")
    fit(recipe(folder, **short, **{"train.compile": True}), tmp_path / "compiled")
    assert len(calls) == 1
    assert weights(tmp_path / "plain").keys() == weights(tmp_path / "compiled").keys()
    a, b = (column(tmp_path / run, "loss") for run in ("plain", "compiled"))
    np.testing.assert_allclose(a, b, rtol=1e-3)


def test_channels_last_is_the_same_run(folder, tmp_path):
    short = {"train.iterations": 3}
    fit(recipe(folder, **short), tmp_path / "plain")
    run = fit(recipe(folder, **short, **{"train.channels_last": True}), tmp_path / "last")
    convolution = next(m for m in run.model.modules() if isinstance(m, nn.Conv2d))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    a, b = (column(tmp_path / run, "loss") for run in ("plain", "last"))
    np.testing.assert_allclose(a, b, rtol=1e-3)


@pytest.mark.parametrize("backbone", TOYS)
def test_activations_computed_again_change_nothing(backbone, folder):
    """Gradients and batch-norm statistics are the same, and fewer tensors are kept."""
    spec = ModelSpec(backbone=TOYS[backbone], width=16, **FULL)
    image, label = torch.rand(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    found = {}
    for again in (False, True):
        torch.manual_seed(0)
        model = build(spec, ClassSet.numbered(3)).train()
        module = LitSegmenter(model, recipe(folder, **{"train.checkpoint_activations": again}))
        kept = []

        def keep(x, kept=kept):
            kept.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            loss = sum(loss_terms(model(image), label, LossSpec()).values())
        module.on_before_backward(loss)
        loss.backward()
        module.on_after_backward()
        assert 0.0 not in {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
        gradients = {name: p.grad for name, p in model.named_parameters()}
        found[again] = (sum(kept), gradients, dict(model.named_buffers()))
    assert found[True][0] < found[False][0]
    for (name, a), b in zip(found[False][1].items(), found[True][1].values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    for (name, a), b in zip(found[False][2].items(), found[True][2].values(), strict=True):
        if "num_batches" not in name:
            torch.testing.assert_close(a, b, msg=name)


def test_fine_tuning_matches_tokens_by_class_name(folder, tmp_path, capsys):
    """From classes a, b, c to c, new, a: rows move with their names."""
    fit(recipe(folder, **{"train.iterations": 2, "model.encoder": "ocr"}), tmp_path / "first")
    capsys.readouterr()
    other = {"classes": ["c", "new", "a"], "label_map": {10: "a", 20: "new", 30: "c", 99: "ignore"}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    still = {"train.iterations": 1, "optim.lr": 1e-30, "optim.weight_decay": 0.0}
    still |= {"data.data_yaml": str(tmp_path / "other.yaml"), "model.encoder": "ocr"}
    fit(recipe(folder, **still, **{"train.init": str(tmp_path / "first")}), tmp_path / "second")
    says = capsys.readouterr().err
    assert "class tokens of c, a" in says
    assert "from random tokens: new" in says
    old, new = weights(tmp_path / "first"), weights(tmp_path / "second")
    moved = 0
    for key, value in new.items():
        if "running" in key or "num_batches" in key:
            continue  # one step moves the statistics
        if "tokens" in key or value.shape != old[key].shape:
            torch.testing.assert_close(value[[0, 2]], old[key][[2, 0]], msg=key)
            moved += 1
        elif value.shape[0] != 3:
            torch.testing.assert_close(value, old[key], msg=key)
    assert moved >= 2
    fit(recipe(folder, **{"train.iterations": 1}), tmp_path / "cae")
    other = recipe(folder, **{"train.init": str(tmp_path / "cae"), "model.encoder": "identity"})
    with pytest.raises(HfgdError, match=r"composed otherwise .*cae.* there, .*identity.* here"):
        fit(other, tmp_path / "third")


def test_wandb_is_named_where_it_is_missing(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    with pytest.raises(HfgdError, match="pip install wandb"):
        fit(recipe(folder, **{"train.loggers": ["wandb"]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_profile_names_the_phases(folder, tmp_path):
    settings = {"train.iterations": 16, "train.validate_every": 16, "train.checkpoint_every": 16}
    fit(recipe(folder, **settings), tmp_path / "run", profile=True)
    text = (tmp_path / "run/profile.md").read_text()
    for phase in ("data", "forward", "losses", "backward", "optimiser"):
        assert f"| {phase} |" in text
    assert "aten::" in text
    assert (tmp_path / "run/trace.json").stat().st_size > 10_000


def test_mixed_precision_runs_finish(folder, tmp_path):
    run = fit(recipe(folder, **{"train.precision": "bf16-mixed"}), tmp_path / "run")
    assert np.isfinite(column(tmp_path / "run", "loss")).all()
    assert {v.dtype for v in run.model.parameters()} == {torch.float32}


def test_class_weights_from_shares():
    from hfgd.data.statistics import class_weights

    pixels = np.array([800, 150, 0, 50])
    assert class_weights(pixels, "median") == [0.1875, 1.0, 1.0, 3.0]
    assert class_weights(pixels, "log") == pytest.approx(
        [1 / np.log(1.82), 1 / np.log(1.17), 1.0, 1 / np.log(1.07)], abs=1e-4
    )


def test_class_weights_command_writes_a_recipe(folder, run):
    """Its output under a base is a recipe that trains; counted against a plain loop."""
    from PIL import Image

    counts = np.zeros(100)
    for path in (folder / "labels/train").iterdir():
        counts += np.bincount(np.asarray(Image.open(path)).ravel(), minlength=100)[:100]
    shares = counts[[10, 20, 30]] / counts[[10, 20, 30]].sum()
    code, out, _ = run("data", "class-weights", folder)
    assert code == 0
    content = yaml.safe_load(out)
    np.testing.assert_allclose(
        content["loss"]["class_weights"], np.median(shares) / shares, atol=1e-4
    )


def test_synchronised_norms_keep_their_activations():
    """timm's norms hold an activation, which PyTorch's own conversion would drop."""
    from hfgd.model import BackboneSpec
    from hfgd.training.module import with_synchronised_norms

    spec = ModelSpec(backbone=BackboneSpec(name="test_efficientnet"), width=16)
    model = build(spec, ClassSet.numbered(3)).eval()
    image = torch.rand(1, 3, 65, 65)
    expected, keys = model(image).logits, model.state_dict().keys()
    model = with_synchronised_norms(model)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    assert not any(type(module) is nn.BatchNorm2d for module in model.modules())
    torch.testing.assert_close(model(image).logits, expected)
    assert model.state_dict().keys() == keys


def test_one_line_says_where_norms_see_less_than_the_batch(folder, tmp_path, capsys):
    from hfgd.model import BackboneSpec
    from hfgd.recipes.spec import TrainSpec
    from hfgd.training.module import seen_by_norms, with_synchronised_norms

    spec = ModelSpec(backbone=BackboneSpec(name="test_resnet"), width=16)
    model = build(spec, ClassSet.numbered(3))
    whole = TrainSpec(batch_size=16)
    assert seen_by_norms(model, whole, 1) is None
    line = seen_by_norms(model, whole, 4)
    assert line.startswith("batch norms take their statistics of 4 images of the 16 of a batch")
    assert "synchronised on GPUs only" in line
    parts = TrainSpec(batch_size=16, accumulate=2)
    assert "of 8 images of the 16 of a batch (train.accumulate 2)" in seen_by_norms(model, parts, 1)
    assert seen_by_norms(model, TrainSpec(batch_size=16, freeze=("batch_norm",)), 4) is None
    assert seen_by_norms(with_synchronised_norms(model), whole, 4) is None
    assert seen_by_norms(nn.Conv2d(3, 3, 1), whole, 4) is None
    short = {"train.iterations": 1, "train.accumulate": 2}
    fit(recipe(folder, **short), tmp_path / "run")
    assert "statistics of 1 images of the 2 of a batch" in capsys.readouterr().err


def test_dense_then_strided_is_the_strided_convolution():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6), nn.Conv2d(6, 8, 3, stride=2)
    )
    other = copy.deepcopy(network)
    without_slow_strides(network)
    assert "forward" in vars(network[0])
    assert "forward" not in vars(network[1])  # not depthwise: its kernels are fast
    for size in ((9, 13), (8, 12)):
        image = torch.rand(2, 6, *size, requires_grad=True)
        found = []
        for model in (network, other):
            y = model(image)
            found.append((y, *torch.autograd.grad(y.square().sum(), [image, *model.parameters()])))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b)
