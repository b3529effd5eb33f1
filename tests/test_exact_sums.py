"""Sums over millions of pixels are right, and none needs fp64 where the device has none."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conftest import toy
from hfgd.inference import confidence as predicting
from hfgd.inference import temperature as calibrate
from hfgd.inference.temperature import GRID, Histograms
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.losses.banded import class_sums
from hfgd.losses.criteria import CRITERIA
from hfgd.losses.lovasz import _jaccard_steps
from hfgd.losses.spec import LossSpec
from hfgd.losses.target import Target, pixels_of_classes
from hfgd.losses.terms import loss_terms
from hfgd.model.network import SegOutput
from hfgd.parallel import device
from hfgd.review import quality
from hfgd.review import select as unlabelled
from hfgd.types import Frame, Grid


def criterion(name, logits, label, **spec):
    size = (label.shape[1], label.shape[2])
    output = SegOutput(logits, *[None] * 4, Frame(size, size, Grid.CELLS))
    return loss_terms(output, label, LossSpec(criterion=name, **spec))["fine"]


# ---- large images -----------------------------------------------------------------------------


def test_the_sums_of_a_class_are_right_over_millions_of_pixels():
    """Nearly all pixels are of one class: added one by one in fp32 its sum is per cents off."""
    size = (2048, 2560)
    generator = torch.Generator().manual_seed(0)
    logits = 0.01 * torch.randn(2, 3, 16, 20, generator=generator)  # p is near 1/3 everywhere
    label = torch.zeros(2, *size, dtype=torch.uint8)
    label[:, :2] = 1
    weight = torch.ones(2, *size)
    frame = Frame(size, size, Grid.CELLS)
    own, every = class_sums(logits, label, weight, frame)
    p = torch.nn.functional.interpolate(logits, size, mode="bilinear").softmax(1).double()
    expected = torch.stack([(p[:, k] * (label == k)).sum() for k in (0, 1, 2)])
    naive = torch.zeros(1).index_add_(
        0, torch.zeros(label.numel()).long(), p[:, 0].flatten().float()
    )
    assert abs(naive.double() / p[:, 0].sum() - 1) > 0.01  # what this is about
    torch.testing.assert_close(own.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(every.double(), p.sum((0, 2, 3)), rtol=1e-5, atol=0)


def test_pixels_are_counted_beyond_two_to_the_24th():
    size = (4100, 4200)
    label = torch.zeros(1, *size, dtype=torch.uint8)
    label[:, 0, :5], label[:, 1] = 1, 255
    frame = Frame(size, size, Grid.CELLS)
    target = Target(label, (label != 255).float(), 1.0, None, frame, LossSpec())
    counts = pixels_of_classes(target, 2)
    assert counts.tolist() == [4099 * 4200 - 5, 5]
    assert counts[0] > 2**24


def test_lovasz_steps_are_those_of_the_ratio_in_fp64():
    members = (torch.rand(100_000) < 0.01).float()
    found, place = members.double().cumsum(0), torch.arange(1, len(members) + 1)
    jaccard = 1 - (found[-1] - found) / (found[-1] + place - found)
    expected = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
    torch.testing.assert_close(_jaccard_steps(members).double(), expected, rtol=1e-5, atol=1e-12)


# ---- OHEM without a minimum -------------------------------------------------------------------


def test_ohem_without_a_minimum_takes_the_pixels_below_the_threshold():
    """The mean cross-entropy of the pixels whose class has less than 0.7; 0 once all have more."""
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(2, 3, 12, 16, generator=generator)).requires_grad_()
    label = torch.randint(0, 3, (2, 12, 16), generator=generator)
    label[0, :3] = 255
    loss = criterion("ohem", logits, label, ohem_min_kept=0)
    given = logits.permute(0, 2, 3, 1)[label != 255]
    pixels = torch.nn.functional.cross_entropy(given, label[label != 255], reduction="none")
    expected = pixels[pixels > -np.log(0.7)].mean()
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().sum() > 0
    learnt = torch.nn.functional.one_hot(label.clamp(max=2), 3).permute(0, 3, 1, 2) * 20.0
    assert criterion("ohem", learnt, label, ohem_min_kept=0) == 0
    nothing = torch.full_like(label, 255)
    for kept in (0, 0.1):
        assert criterion("ohem", logits, nothing, ohem_min_kept=kept) == 0


# ---- a device without fp64 ---------------------------------------------------------------------


class NoDoubles(TorchDispatchMode):
    """A device without fp64, as Apple's GPUs are: whatever makes such a tensor is refused.

    What has been brought to the host, ``cpu()`` here, may become one.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                raise TypeError(f"{function}: this device has no float64")
        return result


@pytest.fixture
def apple(monkeypatch):
    """A CPU that is taken for a device without fp64."""
    fp32 = lambda device: torch.float32  # noqa: E731
    monkeypatch.setattr(device, "finest_float", fp32)
    for module in (quality, unlabelled):
        monkeypatch.setattr(module, "finest_float", fp32)


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_does_without_fp64(name):
    logits = torch.randn(2, 3, 8, 8).requires_grad_()
    label = torch.randint(0, 3, (2, 32, 32), dtype=torch.uint8)
    with NoDoubles():
        criterion(name, logits, label, label_smoothing=0.1).backward()
    assert logits.grad.abs().sum() > 0


def test_car_and_a_whole_step_do_without_fp64():
    model = toy(encoder="cae", upsampler="u_sfpn", axial_attention=True).train()
    label = torch.randint(0, 5, (2, 65, 65), dtype=torch.uint8)
    with NoDoubles():
        found = loss_terms(model(torch.rand(2, 3, 65, 65)), label, LossSpec())
        torch.stack(list(found.values())).sum().backward()
    assert "car_intra" in found


def test_calibration_does_without_fp64(apple):
    scores = torch.randn(40, 50, 4)
    label = torch.randint(0, 4, (40, 50), dtype=torch.uint8)
    exact, coarse = Histograms(), Histograms()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "finest_float", lambda device: torch.float64)
        exact.counting(label, 0)(slice(0, 40), scores)
    with NoDoubles():
        coarse.counting(label, 0)(slice(0, 40), scores)
        calibrate.with_confidence(1.5)(slice(0, 40), scores)
        predicting.best_and_sure(scores.clone())
    assert len(GRID) == exact.loss.shape[1]
    np.testing.assert_allclose(coarse.loss, exact.loss, rtol=1e-5)
    np.testing.assert_allclose(coarse.bins, exact.bins, rtol=1e-5)


def test_review_does_without_fp64_on_the_device(apple, monkeypatch):
    """The sums are kept in fp64 on the host; before they come there, nothing is."""
    seen = []
    to, total = torch.Tensor.to, torch.Tensor.sum

    def moved(self, *words, **named):
        seen.extend(word for word in (*words, *named.values()) if isinstance(word, torch.dtype))
        return to(self, *words, **named)

    def added(self, *words, **named):
        seen.append(named.get("dtype"))
        return total(self, *words, **named)

    monkeypatch.setattr(torch.Tensor, "to", moved)
    monkeypatch.setattr(torch.Tensor, "sum", added)
    monkeypatch.setattr(torch.Tensor, "double", None)
    labeller = NetworkLabeller(toy(classes=3))
    image = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    label = torch.randint(0, 3, (40, 50), dtype=torch.uint8)
    found = quality.judge(labeller, image, label, quality.QualityTerms())
    row = unlabelled.look(labeller, image, False)
    assert found is not None
    assert 0 <= row["entropy"] <= 1
    assert torch.float32 in seen
    assert torch.float64 not in seen


def test_apples_gpus_are_the_ones_without_fp64():
    assert device.finest_float(torch.device("mps")) == torch.float32
    assert device.finest_float(torch.device("cpu")) == torch.float64
