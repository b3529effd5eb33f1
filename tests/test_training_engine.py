"""The engine of training: clipping in mixed precision, SLURM's variables, GPUs, idle parameters.

Also weights of any number of axes, and which weights decay.
"""

import os
import re
import signal
from functools import partial
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

import hfgd
from conftest import TOYS, recipe, same, toy, weights
from hfgd.data.classes import ClassSet
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.model.network import Network, SegOutput, in_channels_last
from hfgd.model.upsamplers import UPSAMPLERS
from hfgd.parallel import device
from hfgd.parallel.launch import take_part
from hfgd.recipes.spec import OptimSpec
from hfgd.training import fit as fitting
from hfgd.training.fit import fit
from hfgd.training.module import LitSegmenter
from hfgd.training.optim import make_optimiser, undecayed
from hfgd.types import Frame, Grid

SLURM = {
    "SLURM_JOB_ID": "41234", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0", "SLURM_NODELIST": "node07", "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS_PER_NODE": "4",
}  # fmt: skip
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# ---- clipping ---------------------------------------------------------------------------------------


@pytest.fixture
def fused(monkeypatch):
    """Fused optimisers, as on a GPU."""
    for name in ("SGD", "AdamW"):
        whole = getattr(torch.optim, name)
        monkeypatch.setattr(torch.optim, name, partial(whole, fused=True))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_clipping_goes_with_fused_optimisers_in_mixed_precision(folder, tmp_path, fused, name):
    changes = {"train.iterations": 2, "optim.clip_norm": 0.1, "optim.name": name}
    run = fit(recipe(folder, **changes, **{"train.precision": "bf16-mixed"}), tmp_path / "run")
    assert run.report.scores.matrix.sum() > 0


def test_clipping_cuts_the_norm_of_the_gradients(folder, tmp_path, monkeypatch):
    norms = []
    clip = LitSegmenter.configure_gradient_clipping

    def clipped(self, *words, **named):
        clip(self, *words, **named)
        gradients = [p.grad.norm() for p in self.parameters() if p.grad is not None]
        norms.append(float(torch.stack(gradients).norm()))

    monkeypatch.setattr(LitSegmenter, "configure_gradient_clipping", clipped)
    changes = {"train.iterations": 2, "train.batch_size": 4, "train.accumulate": 2}
    fit(recipe(folder, **changes, **{"optim.clip_norm": 0.01}), tmp_path / "run")
    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)  # once a step, not once a part


@pytest.mark.parametrize("is_fused", [True, False])
def test_clipping_under_a_loss_scale_is_that_of_the_plain_gradients(folder, is_fused):
    """fp16's loss is scaled; what the optimiser does must not depend on it."""
    results = []
    for scale in (None, 1024.0):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        optimiser = torch.optim.SGD(layer.parameters(), lr=1.0, fused=is_fused)
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        loss = layer(torch.arange(3.0)).square().sum()
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None and not is_fused:
            scaler.unscale_(optimiser)  # as Lightning does
        plugin = SimpleNamespace(scaler=scaler)
        module = SimpleNamespace(
            trainer=SimpleNamespace(precision_plugin=plugin), parameters=layer.parameters
        )
        LitSegmenter.configure_gradient_clipping(module, optimiser, 0.5)
        optimiser.step() if scaler is None else scaler.step(optimiser)
        results.append(layer.weight.detach().clone())
    torch.testing.assert_close(results[0], results[1])


# ---- SLURM ------------------------------------------------------------------------------------------


@pytest.fixture
def slurm(monkeypatch):
    """A job of four tasks, and a process of it that nobody started with others."""
    for name in RANKS:
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)


def test_a_single_process_in_a_slurm_job_is_left_alone(folder, tmp_path, monkeypatch, slurm):
    """It trains as it would elsewhere: no stray checkpoint, no requeueing, no count of tasks."""
    short = recipe(folder, **{"train.iterations": 2})
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work" / "hpc_ckpt_1.ckpt").write_bytes(b"a checkpoint of another run")
    handlers = []

    class Watching(LitSegmenter):
        def on_train_batch_start(self, batch, batch_idx):
            handlers.append(signal.getsignal(signal.SIGUSR1))
            super().on_train_batch_start(batch, batch_idx)

    before = signal.getsignal(signal.SIGUSR1)
    monkeypatch.setattr(fitting, "LitSegmenter", Watching)
    fit(short, tmp_path / "inside")
    assert handlers == [before, before]
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["hpc_ckpt_1.ckpt"]
    for name in SLURM:
        monkeypatch.delenv(name)
    fit(short, tmp_path / "outside")
    assert same(weights(tmp_path / "inside"), weights(tmp_path / "outside"))


def test_a_steps_own_tasks_count_not_those_of_the_job(monkeypatch, slurm):
    """sbatch --ntasks-per-node=4, then srun --nodes=1 --ntasks=2 inside it."""
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    for tasks, expected in (("2", "2"), ("1(x2)", "1"), ("2,1", "4")):
        monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
        assert take_part()
        assert os.environ["LOCAL_WORLD_SIZE"] == expected
        for name in RANKS:
            monkeypatch.delenv(name)


# ---- GPUs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("local", "seen", "expected"), [(3, 8, 3), (3, 1, 0), (3, 2, 1), (0, 1, 0), (3, 0, 0)]
)
def test_a_process_takes_a_gpu_that_it_sees(folder, monkeypatch, local, seen, expected):
    """srun --gpus-per-task=1 shows every process one GPU, cuda:0, whatever its number."""
    monkeypatch.setenv("LOCAL_RANK", str(local))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    assert device.own_gpu() == f"cuda:{expected}"
    engine = fitting._engine(recipe(folder).train, 8, device.own_gpu(), toy())
    assert engine["devices"] == [expected]
    assert engine["num_nodes"] * len(engine["devices"]) == 8
    assert engine["strategy"].cluster_environment.local_rank() == 0


# ---- networks of users ------------------------------------------------------------------------------


class Volume(Network):
    """A 3-D convolution, and a layer that no loss reaches."""

    def __init__(self):
        super().__init__()
        self.classes, self.grid = ClassSet.of(["a", "b", "c"]), Grid.CELLS
        self.mean = torch.full((3, 1, 1), 0.5)
        self.depth = nn.Conv3d(1, 4, 3, padding=1)
        self.flat = nn.Conv2d(12, 3, 1)
        self.idle = nn.Linear(2, 2)

    def forward(self, image, all_branches=None):
        size = (image.shape[-2], image.shape[-1])
        logits = self.flat(self.depth(image[:, None]).flatten(1, 2))
        return SegOutput(logits, *[None] * 4, Frame(size, size, self.grid))


def test_weights_of_five_axes_train_and_are_used(folder, tmp_path):
    run = fit(recipe(folder, **{"train.iterations": 2}), tmp_path / "run", network=Volume())
    loaded = hfgd.load(tmp_path / "run", network=Volume())
    image = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    assert torch.equal(
        NetworkLabeller(loaded).labels(image), NetworkLabeller(run.model).labels(image)
    )
    network = in_channels_last(Volume())
    assert network.flat.weight.is_contiguous(memory_format=torch.channels_last)
    assert network.depth.weight.is_contiguous()


def test_idle_parameters_are_looked_for_in_networks_of_users(folder):
    """Of the recipes' networks every parameter takes part in every loss; see the next test."""
    for network, expected in ((Volume(), True), (toy(), False)):
        strategy = fitting._engine(recipe(folder).train, 2, "cpu", network)["strategy"]
        assert strategy._ddp_kwargs["find_unused_parameters"] is expected


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_a_network_of_a_recipe_has_no_idle_parameters_and_can_be_cast(upsampler):
    encoder = {"upernet": "ppm", "deeplabv3plus": "aspp"}.get(upsampler, "ocr")
    dpt = {"backbone": "vit", "stride": 2} if upsampler == "smp_dpt" else {}
    model = toy(encoder=encoder, upsampler=upsampler, **dpt)
    image = torch.rand(2, 3, 65, 65)
    output = model.train()(image)
    logits = [
        x for x in (output.logits, output.guide_logits, output.region_logits) if x is not None
    ]
    sum(x.sum() for x in logits).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    with torch.no_grad():
        expected = model.eval()(image).logits
        for kind, tolerance in (
            (torch.float64, 1e-4),
            (torch.bfloat16, 0.2),
            (torch.float16, 0.05),
        ):
            found = model.to(kind)(image.to(kind)).logits
            assert found.dtype == kind
            assert (found.float() - expected).abs().max() < tolerance * expected.abs().max()


# ---- decay ------------------------------------------------------------------------------------------


def decays(model):
    optimiser = make_optimiser(model, OptimSpec(weight_decay=0.5))
    by_tensor = {id(p): g["weight_decay"] for g in optimiser.param_groups for p in g["params"]}
    return {name: by_tensor[id(parameter)] for name, parameter in model.named_parameters()}


def test_what_timm_lists_is_not_decayed():
    """Swin V2's position networks are called like any layer: only timm's list knows them."""
    options = {"embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}
    name = "swinv2_tiny_window8_256"
    spec = TOYS["swin"].model_copy(update={"name": name, "options": options})
    from hfgd.model import ModelSpec
    from hfgd.model.build import build

    model = build(ModelSpec(backbone=spec, width=16), ClassSet.numbered(3))
    found = decays(model)
    special = {name for name in found if re.search("cpb_mlp|logit_scale", name)}
    assert len(special) > 15
    assert {found[name] for name in special} == {0.0}
    qkv = [name for name in found if name.endswith("qkv.weight")]
    assert {found[name] for name in qkv} == {0.5}
    assert undecayed(model) >= {name for name in special if "logit_scale" in name}


@pytest.mark.parametrize(
    "table",
    ["relative_position_bias_table", "rel_pos_h", "rel_pos_w", "height_rel", "pos_emb", "pos_embed1",
     "attention_biases", "position_embedding_table", "cls_token", "cls_token_1", "absolute_pos_embed"],
)  # fmt: skip
def test_tables_of_positions_are_not_decayed(table):
    network = Volume()
    network.register_parameter(table, nn.Parameter(torch.zeros(4, 3)))
    found = decays(network)
    assert found[table] == 0.0
    assert found["flat.weight"] == found["depth.weight"] == 0.5


def test_a_timm_network_inside_a_users_keeps_its_list():
    network = Volume()
    network.inner = timm.create_model("levit_128s", num_classes=2)
    listed = network.inner.no_weight_decay()
    assert listed
    found = decays(network)
    assert {found[f"inner.{name}"] for name in listed} == {0.0}
