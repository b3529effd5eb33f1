"""Losses against golden numbers (recipe 8.4) and against obvious code."""

import math

import pytest
import torch
import torch.nn.functional as F

from conftest import toy
from hfgd.car import car_terms, class_centres
from hfgd.geometry import Frame, Grid
from hfgd.losses import LossSpec, cross_entropy, loss_terms
from hfgd.model.hfgm import GUIDANCE

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
    value = cross_entropy(logits, label, frame, normalise).item()
    assert value == pytest.approx(by_hand(frame.restore(logits), label, normalise), rel=1e-5)


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
