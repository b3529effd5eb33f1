"""No step waits for the device and none copies from the CPU, shown on fake CUDA tensors.

A fake tensor has a shape, a type and a device and no values: whatever reads one back raises, on a
machine without any GPU, and a dispatch mode sees every copy between devices. The backward pass needs
a real device (its engine asks the driver), so forward, losses and inference are shown here.
"""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import toy
from hfgd import resample
from hfgd.data.classes import IGNORE
from hfgd.evaluation.scoring import Tally
from hfgd.inference.protocol import PROTOCOLS, Protocol
from hfgd.inference.run_protocol import label_image
from hfgd.losses import terms
from hfgd.losses.spec import LossSpec
from hfgd.losses.terms import loss_terms
from hfgd.model.config import GUIDANCE
from hfgd.training.callbacks import Average, Logs
from hfgd.training.module import LitSegmenter


class Copies(TorchDispatchMode):
    """Counts what crosses from one device to another, and new tensors filled on the CPU."""

    def __init__(self):
        super().__init__()
        self.crossed = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            devices = {x.device.type for x in (*args, result) if isinstance(x, torch.Tensor)}
            # a number of the host enters a kernel as its argument, without a copy
            scalars = all(
                x.ndim == 0 for x in args if isinstance(x, torch.Tensor) and x.device.type == "cpu"
            )
            if len(devices) > 1 and not (scalars and "copy" not in str(function)):
                self.crossed.append(str(function))
        return result


@pytest.fixture
def fake():
    """Fake CUDA tensors, with tables that no other test sees."""
    tables = [resample.matrix_table, resample.nearest_table, resample.window_axis]
    tables.append(terms._weight_table)
    for table in tables:
        table.cache_clear()
    with FakeTensorMode() as mode, torch.device("cuda"):
        yield mode
    for table in tables:
        table.cache_clear()


def faked(**spec):
    """A toy network whose tensors are fake CUDA ones; timm reads values while it builds one."""
    with torch.device("cpu"), unset_fake_temporarily():
        model = toy(**spec)
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                module._parameters[name] = torch.nn.Parameter(torch.empty(value.shape))
        for name, value in list(module._buffers.items()):
            if value is not None:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype)
    return model


def full(**changes):
    return faked(
        encoder="cae", upsampler="u_sfpn", guidance=GUIDANCE, axial_attention=True, **changes
    )


SPECS = {
    "plain": LossSpec(),
    "all pixels": LossSpec(normalise="all"),
    "class weights": LossSpec(class_weights=(1.0, 2.0, 3.0, 4.0, 5.0)),
    "other criteria": LossSpec(
        criterion={"ohem": 1, "focal": 1, "dice": 1, "tversky": 1}, label_smoothing=0.1
    ),
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "swin"])
def test_a_training_step_reads_nothing_back_and_copies_nothing(fake, backbone, spec):
    model = full(backbone=backbone).train()
    image = torch.zeros(2, 3, 65, 97, dtype=torch.uint8)
    label = torch.zeros(2, 65, 97, dtype=torch.uint8)
    for step in range(2):
        with Copies() as copies:
            found = loss_terms(model(image.float() / 255), label, SPECS[spec])
            torch.stack(list(found.values())).sum()
        if step:
            assert copies.crossed == []
    assert {"fine", "guide", "car_c2c"} <= found.keys() | {name.split("_")[0] for name in found}
    assert all(term.device.type == "cuda" for term in found.values())


def test_lovasz_reads_back_which_classes_occur_and_nothing_else(fake, monkeypatch):
    """The one criterion that waits, once a step, as its page says; told the classes it does not."""
    model = full().train()
    label = torch.zeros(2, 65, 97, dtype=torch.uint8)
    spec = LossSpec(criterion="lovasz")
    output = model(torch.zeros(2, 3, 65, 97))
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        loss_terms(output, label, spec)
    occurring = SimpleNamespace(flatten=lambda: SimpleNamespace(tolist=lambda: [0, 1, 2, 3, 4]))
    monkeypatch.setattr(torch.Tensor, "nonzero", lambda self: occurring)
    for _ in range(2):
        with Copies() as copies:
            loss_terms(output, label, spec)
    assert copies.crossed == []


def test_averaging_clipping_and_accumulated_losses_neither(fake, tmp_path, monkeypatch):
    """What follows the backward pass, whose gradients are made up here."""
    network, other = full().train(), full()
    monkeypatch.setattr("copy.deepcopy", lambda network: other)  # fake tensors cannot be copied so
    average = Average(network, 0.9, 0)
    module = SimpleNamespace(
        network=network,
        parameters=network.parameters,
        trainer=SimpleNamespace(precision_plugin=object()),
    )
    logs = Logs(tmp_path / "train.csv", 50, 0, None)
    for parameter in network.parameters():
        parameter.grad = torch.empty_like(parameter)
    for step in range(3):
        with Copies() as copies:
            for _ in range(2):  # parts of a batch
                logs.after_part({"fine": torch.zeros(()), "guide": torch.zeros(())})
            LitSegmenter.configure_gradient_clipping(module, None, 1.0)
            average.after_step(None, module, step + 1)
        assert not step or copies.crossed == []


@pytest.mark.parametrize("encoder", ["ocr", "ppm", "aspp", "sa"])
def test_other_encoders_neither(fake, encoder):
    model = faked(encoder=encoder, upsampler="sfpn", aux_fcn="joint").train()
    image = torch.zeros(2, 3, 65, 97)
    label = torch.zeros(2, 65, 97, dtype=torch.uint8)
    for step in range(2):
        with Copies() as copies:
            loss_terms(model(image), label, LossSpec())
        assert not step or copies.crossed == []


@pytest.mark.parametrize(
    "protocol",
    [
        PROTOCOLS["ss"],
        Protocol(name="mf", scales=(0.5, 1.0, 1.75), flip=True),
        Protocol(name="slide", window=(65, 65), average="probs"),
    ],
    ids=lambda protocol: protocol.name,
)
def test_inference_and_its_scores_neither(fake, protocol):
    model = full().eval().requires_grad_(False)
    tally = Tally(5, 0.02)
    for step in range(2):
        image = torch.zeros(1, 3, 97, 129, dtype=torch.uint8)
        label = torch.full((97, 129), IGNORE, dtype=torch.uint8)
        with Copies() as copies, torch.inference_mode():
            labels = label_image(model, image.float() / 255, model.grid, protocol)
            tally.update(labels, label, "image")
        moved = [name for name in copies.crossed if step]
        assert moved == []
        assert labels.shape == (97, 129)
        assert labels.device.type == "cuda"


def test_a_read_back_would_be_seen(fake):
    x = torch.ones(3)
    with pytest.raises(DataDependentOutputException):
        bool(torch.isfinite(x).all())
    with Copies() as copies:
        x + torch.zeros(3, device="cpu").to("cuda")
    assert len(copies.crossed) == 1
