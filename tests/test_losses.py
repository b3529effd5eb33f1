"""Losses against golden numbers (recipe 8.4) and against obvious code."""

import math

import pytest
import torch
import torch.nn.functional as F

from conftest import toy
from hfgd.errors import HfgdError
from hfgd.losses.car import car_terms, class_centres
from hfgd.losses.cross_entropy import cross_entropy_sum
from hfgd.losses.terms import LossSpec, loss_terms
from hfgd.model.config import GUIDANCE
from hfgd.model.network import SegOutput
from hfgd.resample import restore
from hfgd.types import Frame, Grid

GOLDEN = {  # (S, variant): c2c, c2p, intra and the norms of their gradients
    (1, "A"): (0.05871418, 0.27954882, 0.21106485, 0.00324423, 0.00154320, 0.07463088),
    (1, "B"): (0.05934533, 0.28005594, 0.21354836, 0.00286335, 0.00165329, 0.07506866),
    (4, "A"): (0.01622230, 0.30500260, 3.37703753, 0.00532341, 0.00880484, 0.29852352),
    (4, "B"): (0.02231480, 0.29455492, 3.41677380, 0.00422267, 0.01209962, 0.30027464),
}


def golden_input(scale, variant):
    i = torch.arange(2 * 3 * 4 * 5, dtype=torch.float64)
    z = scale * torch.sin(0.37 * i + 0.11 * i.sqrt())
    label = torch.arange(24) % 5
    if variant == "B":
        label = torch.where(label == 4, 1, label)
    features = z.float().reshape(2, 3, 4, 5).permute(0, 3, 1, 2).contiguous().requires_grad_()
    return features, torch.where(label == 0, 255, label - 1).reshape(2, 3, 4)


@pytest.mark.parametrize(("case", "golden"), GOLDEN.items())
def test_car_golden(case, golden):
    features, label = golden_input(*case)
    terms = car_terms(features, label, 4)
    values = [terms[name] for name in ("c2c", "c2p", "intra")]
    norms = [torch.autograd.grad(v, features, retain_graph=True)[0].norm().item() for v in values]
    assert [v.item() for v in values] == pytest.approx(golden[:3], rel=2e-6)
    assert norms == pytest.approx(golden[3:], rel=5e-5)


def test_car_keeps_ignored_pixels_in_c2p_and_out_of_the_rest():
    features, label = golden_input(4, "A")
    terms = car_terms(features, label, 4)
    at_ignored = {
        name: torch.autograd.grad(term, features, retain_graph=True)[0][0, 0, 0, 0].item()
        for name, term in terms.items()
    }
    assert at_ignored["c2p"] == pytest.approx(-1.05483958e-3, rel=1e-4)
    assert at_ignored["c2c"] == 0
    assert at_ignored["intra"] == 0


def test_class_centres_equal_loops():
    pixels, label = torch.randn(30, 6), torch.randint(0, 4, (30,))
    label[label == 2] = 1  # class 2 is absent
    centres = class_centres(pixels, F.one_hot(label, 4).float())
    for k in range(4):
        members = pixels[label == k]
        expected = members.mean(0) if len(members) else torch.zeros(6)
        torch.testing.assert_close(centres[k], expected)


def by_hand(logits, label, normalise):
    """Pixel by pixel."""
    total, valid = 0.0, 0
    for b, y, x in torch.cartesian_prod(*(torch.arange(n) for n in label.shape)).tolist():
        k = label[b, y, x].item()
        if k != 255:
            scores = logits[b, :, y, x]
            total += math.log(scores.exp().sum().item()) - scores[k].item()
            valid += 1
    return total / (label.numel() if normalise == "all" else max(1, valid))


@pytest.mark.parametrize("normalise", ["valid", "all"])
@pytest.mark.parametrize("grid", Grid)
def test_cross_entropy_equals_loops(normalise, grid):
    label = torch.randint(0, 3, (2, 10, 12))
    label[:, 2:5] = 255
    logits = torch.randn(2, 3, 3, 3)
    frame = Frame((10, 12), grid.padded((10, 12)), grid)
    output = SegOutput(logits, None, None, None, None, frame)
    value = loss_terms(output, label, LossSpec(normalise=normalise))["fine"].item()
    assert value == pytest.approx(by_hand(restore(logits, frame), label, normalise), rel=1e-5)


def obvious(logits, label, weight, frame):
    """Full-size logits, PyTorch's cross-entropy, pixel by pixel."""
    full = F.cross_entropy(restore(logits, frame), label, reduction="none")
    return (full * weight).sum()


@pytest.mark.parametrize("band", [1, 300, None])
@pytest.mark.parametrize("size", [(33, 65), (30, 49), (5, 3)])
@pytest.mark.parametrize("grid", Grid)
def test_cross_entropy_without_full_size_logits_is_exact(grid, size, band, monkeypatch):
    """Value and gradient, for bands of one row, of a few, of all; weights zero and not."""
    frame = Frame(size, grid.padded(size), grid)
    height, width = frame.padded
    low = (-(-height // 4), -(-width // 4))
    logits = (5 * torch.randn(2, 7, *low)).requires_grad_()
    label = torch.randint(0, 7, (2, *size))
    weight = torch.rand(2, *size) * torch.randint(0, 2, (2, *size))
    value = cross_entropy_sum(logits, label, weight, frame, band)
    expected = obvious(logits, label, weight, frame)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-5)
    (ours,) = torch.autograd.grad(value, logits)
    (theirs,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=3e-6)
    full = restore(logits, frame)
    monkeypatch.setattr("hfgd.resample.BAND_CPU", band or 1 << 22)
    output = SegOutput(logits, None, None, None, None, frame)
    best = output.labels().long()[:, None]
    torch.testing.assert_close(full.gather(1, best)[:, 0], full.amax(1), rtol=0, atol=1e-5)


def test_cross_entropy_of_hopeless_logits_is_finite():
    frame = Frame((33, 33), (33, 33), Grid.CORNERS)
    logits = torch.zeros(1, 2, 9, 9)
    logits[:, 0] = 1e4
    logits.requires_grad_()
    value = cross_entropy_sum(logits, torch.ones(1, 33, 33).long(), torch.ones(1, 33, 33), frame)
    assert value.item() == pytest.approx(1e4 * 33 * 33)
    value.backward()
    assert logits.grad.sum(1).abs().max() < 1e-4
    assert logits.grad[:, 0].sum().item() == pytest.approx(33 * 33)


def test_cross_entropy_under_autocast_is_that_of_the_rounded_logits():
    frame = Frame((33, 33), (33, 33), Grid.CORNERS)
    logits = torch.randn(1, 5, 9, 9).bfloat16().requires_grad_()
    label, weight = torch.randint(0, 5, (1, 33, 33)), torch.ones(1, 33, 33)
    with torch.autocast("cpu", torch.bfloat16):
        value = cross_entropy_sum(logits, label, weight, frame)
    assert value.dtype == torch.float32
    expected = obvious(logits.float(), label, weight, frame)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    (ours,) = torch.autograd.grad(value, logits)
    (theirs,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, theirs, rtol=0.01, atol=1e-3)  # both rounded to bf16


def test_the_losses_compile_without_a_graph_break():
    """Traced whole, with the gradient; the eager backend runs what was traced."""
    frame = Frame((33, 49), Grid.CORNERS.padded((33, 49)), Grid.CORNERS)
    logits = torch.randn(1, 4, 9, 17, requires_grad=True)
    label = torch.randint(0, 4, (1, 33, 49))
    label[:, :3] = 255

    spec = LossSpec()

    def loss(x):
        output = SegOutput(x, x, None, None, torch.cat([x, x], 1), frame)
        return torch.stack(list(loss_terms(output, label, spec).values())).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits), loss(logits))
    (ours,) = torch.autograd.grad(compiled(logits), logits)
    (theirs,) = torch.autograd.grad(loss(logits), logits)
    torch.testing.assert_close(ours, theirs)


def test_class_weights_are_pytorchs():
    frame = Frame((33, 33), (33, 33), Grid.CORNERS)
    output = SegOutput(torch.randn(2, 3, 9, 9), None, None, None, None, frame)
    label = torch.randint(0, 3, (2, 33, 33))
    label[:, 5:9] = 255
    weights = (0.5, 0.0, 3.0)
    spec = LossSpec(class_weights=weights)
    expected = F.cross_entropy(output.full_size(), label, torch.tensor(weights), ignore_index=255)
    torch.testing.assert_close(loss_terms(output, label, spec)["fine"], expected)
    with pytest.raises(HfgdError, match=r"class_weights has 2 weights for 3 classes"):
        loss_terms(output, label, LossSpec(class_weights=(1, 2)))


def test_a_batch_without_a_labelled_pixel_costs_nothing():
    model = toy(encoder="cae", upsampler="u_sfpn", guidance=GUIDANCE).train()
    output = model(torch.rand(2, 3, 65, 65))
    terms = loss_terms(output, torch.full((2, 65, 65), 255), LossSpec())
    assert terms["fine"].item() == 0
    assert terms["guide"].item() == 0
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_terms_have_their_names_and_weights():
    model = toy(encoder="cae", upsampler="u_sfpn", guidance=GUIDANCE).train()
    output, label = model(torch.rand(1, 3, 65, 65)), torch.randint(0, 5, (1, 65, 65))
    once = loss_terms(output, label, LossSpec())
    assert list(once) == ["fine", "guide", "car_c2c", "car_c2p", "car_intra"]
    weighted = loss_terms(output, label, LossSpec(fine=3, guide=0.5, car=0))
    assert list(weighted) == ["fine", "guide"]
    torch.testing.assert_close(weighted["fine"], 3 * once["fine"])
    torch.testing.assert_close(weighted["guide"], 0.5 * once["guide"])


def test_losses_stay_in_fp32_under_autocast():
    model = toy(encoder="cae", upsampler="u_sfpn", guidance=GUIDANCE).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.rand(1, 3, 65, 65))
        terms = loss_terms(output, torch.randint(0, 5, (1, 65, 65)), LossSpec())
    assert {term.dtype for term in terms.values()} == {torch.float32}
