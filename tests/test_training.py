"""Training runs: they learn, they resume bit for bit, they stop in a sentence."""

import json
import signal

import pytest
import torch
import yaml

from conftest import TOYS, recipe, same, start_training, wait_for_iteration, weights
from hfgd.checkpoint import load_model
from hfgd.data.classes import ClassSet
from hfgd.data.dataset import Sample
from hfgd.data.scenes import ScenesDataset
from hfgd.errors import HfgdError, TrainingStopped
from hfgd.evaluation.scoring import evaluate
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.losses.terms import LossSpec, loss_terms
from hfgd.model import ModelSpec
from hfgd.model.build import build
from hfgd.progress import Progress
from hfgd.recipes.spec import OptimSpec
from hfgd.training.callbacks import Logs
from hfgd.training.failures import Stop
from hfgd.training.fit import fit
from hfgd.training.optim import make_optimiser, poly_schedule


def test_a_score_before_the_first_losses_stands_alone_in_the_progress_line(tmp_path, capsys):
    logs = Logs(tmp_path / "train.csv", 50, 0, Progress("training", 60))
    logs.miou_text = " · mIoU 29.63 (best 29.63 at 30)"
    logs.show(30, say=True)
    assert " · mIoU 29.63" in (shown := capsys.readouterr().err)
    assert "·  ·" not in shown


def test_run_folder_holds_everything(folder, tmp_path):
    run = fit(recipe(folder), tmp_path / "run")
    names = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*")}
    assert {
        "recipe.yaml", "environment.json", "report.md", "report.json", "report.html", "panels.png",
        "curves.png", "confusion.png", "iou_per_class.png", "logs/train.csv", "logs/val.csv",
        "state.ckpt",
        "last/model.safetensors", "last/config.json", "best/model.safetensors",
    } <= names  # fmt: skip
    assert any(name.startswith("logs/tensorboard/events") for name in names)
    assert not [name for name in names if name.endswith(".part")]
    header, *rows = (tmp_path / "run/logs/train.csv").read_text().splitlines()
    assert header == "iteration,lr,loss,fine,guide,car_c2c,car_c2p,car_intra"
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, 9))
    assert yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())["train"]["iterations"] == 8
    scores = evaluate(NetworkLabeller(load_model(tmp_path / "run")), run_val(folder))
    assert scores.miou == pytest.approx(run.report.scores.miou)
    config = json.loads((tmp_path / "run/last/config.json").read_text())
    assert config["facts"]["iteration"] == 8
    assert config["facts"]["mIoU"] == pytest.approx(scores.miou)


def run_val(folder):
    from hfgd.data.open import open_dataset

    return open_dataset(str(folder), "val")


@pytest.mark.slow
def test_overfitting_four_scenes():
    """Streets enlarged, so that their poles are wide enough for stride 2."""
    dataset = Enlarged(ScenesDataset("train", 4, size=(32, 48)), 3)
    spec = ModelSpec(backbone=TOYS["test_resnet"], upsampler="u_sfpn", stride=2, width=32)
    model = build(spec, dataset.classes).train()
    images = torch.stack([s.image for s in dataset.samples]).float() / 255
    labels = torch.stack([s.label for s in dataset.samples]).long()
    optimiser = make_optimiser(model, OptimSpec(name="adamw", lr=0.005))
    schedule = poly_schedule(optimiser, 300, 0.9)
    for _ in range(300):
        optimiser.zero_grad()
        sum(loss_terms(model(images), labels, LossSpec()).values()).backward()
        optimiser.step()
        schedule.step()
    assert evaluate(NetworkLabeller(model), dataset).miou > 0.95


class Enlarged:
    def __init__(self, base, factor):
        self.classes: ClassSet = base.classes
        self.title = base.title

        def grow(x):
            return x.repeat_interleave(factor, -1).repeat_interleave(factor, -2)

        samples = (base[i] for i in range(len(base)))
        self.samples = [Sample(grow(s.image), grow(s.label), s.name) for s in samples]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_resumes_to_the_same_weights(folder, tmp_path, workers):
    """SIGKILL at an iteration that no checkpoint belongs to; then --resume; bit for bit."""
    whole = fit(recipe(folder), tmp_path / "whole")
    killed = tmp_path / "killed"
    (tmp_path / "toy.yaml").write_text(recipe(folder, **{"train.workers": workers}).yaml())
    process = start_training(tmp_path / "toy.yaml", killed)
    wait_for_iteration(process, killed, 5)
    process.send(signal.SIGKILL)
    assert process.end().code == -signal.SIGKILL
    assert not same(weights(tmp_path / "whole"), weights(killed))
    fit(None, killed, resume=True)
    assert same(weights(tmp_path / "whole"), weights(killed))
    assert whole.report.scores.matrix.tolist() == json.loads(
        (killed / "report.json").read_text()
    )["confusion"]  # fmt: skip
    rows = (killed / "logs/train.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, 9))


def test_resuming_needs_no_pretrained_file(folder, tmp_path):
    """The weights are in the run's state; the file they came from may be gone."""
    import timm
    from safetensors.torch import save_file

    source = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), source)
    short = {"train.iterations": 4, "model.backbone.pretrained": str(source)}
    whole = fit(recipe(folder, **short), tmp_path / "run").report.scores
    source.unlink()
    assert fit(None, tmp_path / "run", resume=True).report.scores.miou == whole.miou
    with pytest.raises(HfgdError, match="there is no file"):
        fit(recipe(folder, **short), tmp_path / "fresh")


def test_a_non_finite_loss_stops_with_iteration_and_images(folder, tmp_path):
    wild = recipe(folder, **{"optim.lr": 1e30, "train.checkpoint_every": 1})
    with pytest.raises(TrainingStopped) as stopped:
        fit(wild, tmp_path / "run")
    text = str(stopped.value)
    assert "not finite at iteration" in text
    assert "train0" in text or "train1" in text or "train2" in text
    assert f"last good checkpoint is {tmp_path / 'run/state.ckpt'}" in text
    assert stopped.value.exit_code == 3
    saved = torch.load(tmp_path / "run/state.ckpt", weights_only=True)
    assert saved["global_step"] >= 1


def test_an_existing_run_is_neither_overwritten_nor_mixed_up(folder, tmp_path):
    fit(recipe(folder, **{"train.iterations": 2}), tmp_path / "run")
    with (tmp_path / "run/logs/train.csv").open("a") as file:
        file.write("1,0.0")  # a row that a kill cut off
    with pytest.raises(HfgdError, match="already holds a run"):
        fit(recipe(folder), tmp_path / "run")
    with pytest.raises(HfgdError, match=r"train\.iterations is 2 there and 8 here"):
        fit(recipe(folder), tmp_path / "run", resume=True)
    with pytest.raises(HfgdError, match="holds no run to resume"):
        fit(None, tmp_path / "other", resume=True)
    again = fit(None, tmp_path / "run", resume=True)  # finished: only scored again
    assert again.report.images == 2
    rows = (tmp_path / "run/logs/train.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["iteration", "1", "2"]
    (tmp_path / "run/state.ckpt").write_bytes(b"cut off")
    with pytest.raises(HfgdError, match=r"state\.ckpt' is damaged"):
        fit(None, tmp_path / "run", resume=True)


def test_weight_decay_is_on_weights_only():
    model = build(ModelSpec(backbone=TOYS["swin"], encoder="cae", width=16), ClassSet.numbered(3))
    optimiser = make_optimiser(model, OptimSpec(weight_decay=0.5))
    decay = {id(p): g["weight_decay"] for g in optimiser.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        is_table = name.endswith("relative_position_bias_table")
        expected = 0.0 if parameter.ndim < 2 or is_table else 0.5
        assert decay[id(parameter)] == expected, name
    assert len(decay) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("lr", "iterations", "golden"),  # recipe 5.3
    [
        (0.01, 30_000, {0: 0.01, 1: 0.0099997, 100: 0.009969994, 1000: 0.009699494,
                        15_000: 0.005358867, 29_999: 9.3416e-7, 30_000: 0}),
        (4e-5, 40_000, {1000: 3.909886e-5, 20_000: 2.143547e-5, 39_999: 2.8827e-9}),
    ],
)  # fmt: skip
def test_poly_schedule_golden(lr, iterations, golden):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    rate = poly_schedule(optimiser, iterations, 0.9).lr_lambdas[0]
    for iteration, expected in golden.items():
        # the golden numbers carry the fp32 rounding of 1 − t/T; ours are in double precision
        assert lr * rate(iteration) == pytest.approx(expected, rel=1e-6, abs=lr * 2e-7)


@pytest.mark.parametrize(("world", "ends"), [("1", signal.SIG_DFL), ("2", signal.SIG_IGN)])
def test_one_of_several_processes_that_fails_can_say_why(monkeypatch, world, ends):
    """The launcher sends SIGTERM to all others at once, maybe before the sentence is printed."""
    for name, value in {"RANK": "0", "WORLD_SIZE": world, "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(RuntimeError), Stop().listening():
            raise RuntimeError
        assert signal.getsignal(signal.SIGTERM) == ends
    finally:
        signal.signal(signal.SIGTERM, before)
