"""The criteria against the obvious code on full-size logits, and against smp's."""

import os
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hfgd.errors import HfgdError
from hfgd.losses.banded import class_sums, pixel_losses
from hfgd.losses.criteria import CRITERIA
from hfgd.losses.spec import LossSpec
from hfgd.losses.target import kth_largest
from hfgd.losses.terms import loss_terms
from hfgd.model.network import SegOutput
from hfgd.recipes import find_recipe
from hfgd.recipes.spec import parse_overrides
from hfgd.resample import restore
from hfgd.types import Frame, Grid

WEIGHTS = (0.5, 2.0, 0.0, 1.5, 1.0, 3.0)


def case(grid=Grid.CORNERS, size=(30, 49), classes=6, seed=0):
    """Logits, labels with ignored rows and without class 4, and the frame."""
    generator = torch.Generator().manual_seed(seed)
    frame = Frame(size, grid.padded(size), grid)
    low = [-(-n // 4) for n in frame.padded]
    logits = (3 * torch.randn(2, classes, *low, generator=generator)).requires_grad_()
    label = torch.randint(0, classes, (2, *size), generator=generator)
    label[label == 4] = 1
    label[0, 2:9] = 255
    return logits, label, frame


def ours(name, logits, label, frame, **spec):
    output = SegOutput(logits, *[None] * 4, frame)
    return loss_terms(output, label.to(torch.uint8), LossSpec(criterion=name, **spec))["fine"]


# ---- the obvious way, pixels in a list --------------------------------------------------------


def listed(full, label):
    """Labelled pixels only: logits (P, K) and labels (P,)."""
    keep = label != 255
    return full.permute(0, 2, 3, 1)[keep], label[keep]


def obvious(name, full, label, spec):
    z, y = listed(full, label)
    weights = (
        torch.ones(z.shape[1]) if spec.class_weights is None else torch.tensor(spec.class_weights)
    )
    p, w = z.softmax(1), weights[y]
    count = w.sum() if spec.normalise == "valid" else label.numel()
    nll = F.cross_entropy(z, y, reduction="none")
    if name == "cross_entropy":
        smooth = {"label_smoothing": spec.label_smoothing}
        return F.cross_entropy(z, y, weights, reduction="sum", **smooth) / count
    if name == "focal":
        own = p[torch.arange(len(y)), y]
        return (w * (1 - own) ** spec.focal_gamma * nll).sum() / count
    if name == "ohem":
        own = p[torch.arange(len(y)), y].detach()
        counts = w > 0
        rank = own[counts].sort().values[int(np.ceil(counts.sum() * spec.ohem_min_kept)) - 1]
        kept = counts & ((own < spec.ohem_threshold) | (own <= rank))
        smooth = {"label_smoothing": spec.label_smoothing, "reduction": "sum"}
        total = F.cross_entropy(z[kept], y[kept], weights, **smooth)
        return total / (w[kept].sum() if spec.normalise == "valid" else label.numel())
    losses, shares = [], []
    for k in y.unique().tolist():
        own, t = p[:, k], (y == k).float()
        hit = (own * t).sum()
        if name == "dice":
            losses.append(1 - 2 * hit / (own.sum() + t.sum()))
        elif name == "tversky":
            false, missed = (own * (1 - t)).sum(), ((1 - own) * t).sum()
            index = hit / (hit + spec.tversky_alpha * false + spec.tversky_beta * missed)
            losses.append(1 - index)
        else:
            losses.append(lovasz_by_sets((own - t).abs(), t.bool()))
        shares.append(weights[k])
    return (torch.stack(losses) * torch.stack(shares)).sum() / torch.stack(shares).sum()


def lovasz_by_sets(errors, members):
    """Σ e_i · (Δ of the i worst pixels − Δ of the i − 1 worst), Δ(M) = |M| / |members ∪ M|."""
    total, before, wrong = 0.0, 0.0, torch.zeros_like(members)
    for i in errors.argsort(descending=True).tolist():
        wrong[i] = True
        now = wrong.sum().item() / (members | wrong).sum().item()
        total, before = total + errors[i] * (now - before), now
    return total


CASES = [
    *((name, {}) for name in CRITERIA),
    *((name, {"class_weights": WEIGHTS}) for name in CRITERIA),
    ("cross_entropy", {"label_smoothing": 0.1}),
    ("cross_entropy", {"label_smoothing": 0.2, "class_weights": WEIGHTS, "normalise": "all"}),
    ("focal", {"focal_gamma": 0.5, "normalise": "all"}),
    ("ohem", {"ohem_threshold": 0.02, "ohem_min_kept": 0.3}),
    ("ohem", {"label_smoothing": 0.1, "class_weights": WEIGHTS, "normalise": "all"}),
    ("tversky", {"tversky_alpha": 0.6, "tversky_beta": 0.1}),
]


@pytest.mark.parametrize("grid", Grid)
@pytest.mark.parametrize(("name", "changes"), CASES)
def test_criteria_are_those_of_full_size_logits(name, changes, grid, monkeypatch):
    """Value and gradient: with ignored pixels, an absent class, weights of which one is 0."""
    monkeypatch.setattr("hfgd.resample.BAND_CPU", 3000)
    monkeypatch.setattr("hfgd.losses.banded.BLOCK", 20)
    size = (12, 17) if name == "lovasz" else (30, 49)
    logits, label, frame = case(grid, size)
    value = ours(name, logits, label, frame, **changes)
    expected = obvious(name, restore(logits, frame), label, LossSpec(**changes))
    torch.testing.assert_close(value, expected, rtol=2e-5, atol=1e-6)
    (found,) = torch.autograd.grad(value, logits)
    (wanted,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(found, wanted, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "dice", "tversky", "lovasz", "focal"])
def test_criteria_are_those_of_smp(name):
    """smp's Dice and Tversky divide by all classes, ours by those that occur; here all do."""
    import segmentation_models_pytorch.losses as smp
    from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits

    logits, label, frame = case(classes=4)
    theirs = {
        "cross_entropy": smp.SoftCrossEntropyLoss(
            smooth_factor=0.1, ignore_index=255, reduction="sum"
        ),
        "dice": smp.DiceLoss("multiclass", ignore_index=255),
        "tversky": smp.TverskyLoss("multiclass", ignore_index=255, alpha=0.3, beta=0.7),
        "lovasz": smp.LovaszLoss("multiclass", ignore_index=255),
        "focal": lambda full, label: softmax_focal_loss_with_logits(*listed(full, label)),
    }
    expected = theirs[name](restore(logits, frame), label)
    if name == "cross_entropy":
        expected = expected / (label != 255).sum()
    smoothing = 0.1 if name == "cross_entropy" else 0
    value = ours(name, logits, label, frame, label_smoothing=smoothing)
    torch.testing.assert_close(value, expected, rtol=2e-5, atol=1e-6)
    (found,) = torch.autograd.grad(value, logits)
    (wanted,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=2e-6)


def test_the_kth_largest_is_exact():
    values = torch.cat(
        [torch.rand(500), torch.full((30,), 0.25), torch.zeros(9), torch.rand(60) * 1e-6]
    )
    counts = torch.randint(0, 2, values.shape)
    expected = values[counts > 0].sort(descending=True).values
    for k in range(1, len(expected) + 1):
        assert kth_largest(values, counts, torch.tensor(k)) == expected[k - 1]


class Largest(TorchDispatchMode):
    """The most values that the memory of any tensor holds that is made."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        sizes = [x.untyped_storage().nbytes() // x.element_size() for x in made]
        self.values = max([self.values, *sizes])
        return result


@pytest.mark.parametrize("name", CRITERIA)
def test_no_full_size_logit_map_is_made(name, monkeypatch):
    monkeypatch.setattr("hfgd.resample.BAND_CPU", 20_000)
    logits, label, frame = case(size=(65, 97), classes=40)
    with Largest() as largest:
        ours(name, logits, label, frame).backward()
    # histograms of the k-th largest have 65,536 bins
    assert largest.values <= 70_000 < 40 * label.numel() / 7


@pytest.mark.parametrize("name", CRITERIA)
def test_nothing_labelled_costs_nothing(name):
    logits, label, frame = case()
    value = ours(name, logits, torch.full_like(label, 255), frame, label_smoothing=0.1)
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("name", CRITERIA)
def test_criteria_under_autocast_are_those_of_the_rounded_logits(name):
    logits, label, frame = case()
    rounded = logits.detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = ours(name, rounded, label, frame)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, ours(name, rounded.float(), label, frame), rtol=0, atol=0)


def test_hopeless_logits_have_finite_losses_and_gradients():
    _, label, frame = case()
    for name in CRITERIA:
        logits = torch.zeros(2, 6, 9, 17)
        logits[:, 4] = 1e4  # the class that never is
        logits.requires_grad_()
        value = ours(name, logits, label, frame)
        value.backward()
        assert value.isfinite(), name
        assert logits.grad.isfinite().all(), name


# ---- several criteria, several branches, several processes -----------------------------------


def test_criteria_are_added_up_with_their_weights_and_named():
    logits, label, frame = case()
    output = SegOutput(logits, logits * 0.5, None, None, None, frame)
    spec = LossSpec(criterion={"cross_entropy": 1, "dice": 0.5}, fine=2, guide_criterion="dice")
    terms = loss_terms(output, label, spec)
    assert list(terms) == ["fine_cross_entropy", "fine_dice", "guide"]
    torch.testing.assert_close(terms["fine_dice"], ours("dice", logits, label, frame))
    torch.testing.assert_close(terms["guide"], ours("dice", logits * 0.5, label, frame))
    plain = loss_terms(output, label, LossSpec(criterion="lovasz"))["guide"]
    torch.testing.assert_close(plain, ours("cross_entropy", logits * 0.5, label, frame))


MIXED = dict.fromkeys(CRITERIA, 1.0)


def gradients(logits, label, frame):
    """Every term and its gradient, of this process's images."""
    logits = logits.detach().clone().requires_grad_()
    spec = LossSpec(criterion=MIXED, class_weights=WEIGHTS, ohem_threshold=0.05, ohem_min_kept=0.2)
    terms = loss_terms(SegOutput(logits, *[None] * 4, frame), label, spec)
    found = {n: torch.autograd.grad(t, logits, retain_graph=True)[0] for n, t in terms.items()}
    return {n: (t.item(), found[n].numpy()) for n, t in terms.items()}


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def one_of_two(rank, port, results):
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    logits, label, frame = case()
    results[rank] = gradients(logits[rank : rank + 1], label[rank : rank + 1], frame)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_losses_and_gradients_of_one():
    """As training averages them; the first image has fewer labelled pixels than the second."""
    expected = gradients(*case())
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(one_of_two, (free_port(), results), nprocs=2)
        first, second = results[0], results[1]
    for name, (value, gradient) in expected.items():
        assert (first[name][0] + second[name][0]) / 2 == pytest.approx(value, rel=1e-5), name
        # the mean of the processes' gradients: each has its own image's part
        halves = np.concatenate([first[name][1], second[name][1]]) / 2
        np.testing.assert_allclose(halves, gradient, rtol=1e-4, atol=1e-6, err_msg=name)


def test_banded_sums_agree_for_every_band():
    logits, label, frame = case()
    weight = torch.rand(label.shape)
    label = label.masked_fill(label == 255, 0)
    p = restore(logits, frame).softmax(1)
    expected = torch.stack([(p[:, k] * weight)[label == k].sum() for k in range(6)])
    for band in (1, 2000, None):
        own, every = class_sums(logits, label, weight, frame, band)
        torch.testing.assert_close(own, expected)
        torch.testing.assert_close(every, (p * weight[:, None]).sum((0, 2, 3)))
        wanted = F.cross_entropy(restore(logits, frame), label, reduction="none")
        torch.testing.assert_close(pixel_losses(logits, label, frame, band), wanted)


# ---- what a recipe may say ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("loss.criterion=dise", "no criterion named 'dise'; did you mean 'dice'"),
        ("loss.criterion={dice: 1, lovas: 1}", "no criterion named 'lovas'; did you mean 'lovasz'"),
        ("loss.criterion={dice: -1}", "weight of 'dice' must be a number above 0, not -1"),
        ("loss.criterion=[dice]", "give the name of a criterion, or"),
        ("loss.guide_criterion={}", r"loss\.guide_criterion: give the name of a criterion"),
        ("loss.label_smoothing=1", r"loss\.label_smoothing: .*less than 1"),
        ("loss.ohem_min_kept=2", r"loss\.ohem_min_kept"),
    ],
)  # fmt: skip
def test_mistakes_in_a_recipe_are_one_sentence(setting, words):
    with pytest.raises(HfgdError, match=words):
        find_recipe("sfpn_resnet50").with_(**parse_overrides([setting]))


def test_a_mix_in_a_file_replaces_the_one_below_it(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "base: sfpn_resnet50\nloss: {criterion: {dice: 1, focal: 2}}\n"
    )
    (tmp_path / "b.yaml").write_text(f"base: {tmp_path}/a.yaml\nloss: {{criterion: {{ohem: 1}}}}\n")
    assert find_recipe(str(tmp_path / "a.yaml")).loss.criteria("fine") == {"dice": 1, "focal": 2}
    recipe = find_recipe(str(tmp_path / "b.yaml"))
    assert recipe.loss.criteria("fine") == {"ohem": 1}
    assert recipe.loss.criteria("guide") == {"cross_entropy": 1}
    (tmp_path / "c.yaml").write_text(recipe.yaml())
    assert find_recipe(str(tmp_path / "c.yaml")) == recipe
