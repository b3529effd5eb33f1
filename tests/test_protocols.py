"""Protocols: sizes and windows by golden numbers, labels against the obvious implementation."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import toy
from hfgd.data.classes import IGNORE, ClassSet
from hfgd.errors import HfgdError
from hfgd.evaluation.compare import bootstrap, differences, telling_images, titles
from hfgd.evaluation.scores import boundary_counts, boundary_pixels
from hfgd.evaluation.scoring import Tally
from hfgd.inference.protocol import MF_SCALES, PROTOCOLS, Protocol, find_protocol
from hfgd.inference.run_protocol import label_image, reduce_image
from hfgd.model.network import evaluating
from hfgd.resample import resize
from hfgd.types import Frame, Grid

MF_SIDES = {  # recipe 8.6
    513: [257, 385, 513, 641, 769, 897],
    512: [256, 384, 512, 640, 768, 896],
    641: [321, 481, 641, 801, 961, 1121],
    1025: [513, 769, 1025, 1281, 1537, 1793],
    2049: [1025, 1537, 2049, 2561, 3073, 3585],
}


@pytest.mark.parametrize(("side", "golden"), MF_SIDES.items())
def test_scaled_sizes_golden(side, golden):
    protocol = PROTOCOLS["mf"]
    sides = [protocol.scaled((side, side), s, Grid.CORNERS)[0] for s in MF_SCALES]
    assert sides == golden


@pytest.mark.parametrize(
    ("side", "window", "starts"),  # recipe 6.1
    [
        (1025, 513, [0, 342, 512]),
        (2049, 1025, [0, 683, 1024]),
        (1024, 512, [0, 341, 512]),
        (2048, 769, [0, 512, 1024, 1279]),
        (300, 513, [0]),
        (513, 513, [0]),
    ],
)
def test_windows_golden(side, window, starts):
    rows, _ = Protocol(window=(window, window)).windows((side, side))
    assert [start for start, _ in rows] == starts


def obvious(model, image, protocol):
    """Every window's logits at full size, a full canvas for each pass, all kept, then the mean.

    Sizes must lie on the grid, so that every resize is an ordinary one.
    """
    size, grid = image.shape[-2:], model.backbone.grid
    results = []
    for scale, flip in protocol.passes():
        scaled = resize(image, protocol.scaled(tuple(size), scale, grid), grid)
        scaled = scaled.flip(-1) if flip else scaled
        canvas = torch.zeros(5, *size)
        seen = torch.zeros(size)
        rows, columns = protocol.windows(tuple(scaled.shape[-2:]))
        for (top, h), (left, w) in itertools.product(rows, columns):
            logits = model(scaled[..., top : top + h, left : left + w]).full_size()
            if len(rows) == len(columns) == 1:
                logits = resize(model(scaled).logits, tuple(size), grid)
            full = logits[0].softmax(0) if protocol.average == "probs" else logits[0]
            if scale == 1:
                canvas[:, top : top + h, left : left + w] += full
                seen[top : top + h, left : left + w] += 1
            else:
                canvas, seen = canvas + full, seen + 1
        canvas = canvas / seen
        results.append(canvas.flip(-1) if flip else canvas)
    return torch.stack(results).mean(0)


@pytest.fixture(params=["test_resnet", "test_convnext"])
def model(request):
    """Sharp random logits, so that labels differ from pixel to pixel."""
    torch.manual_seed(3)
    net = toy(backbone=request.param, upsampler="u_sfpn", axial_attention=True).eval()
    with torch.no_grad():
        net.hfgm.tokens.weight.mul_(20)
    return net


CASES = {
    "ss": Protocol(),
    "flip": Protocol(flip=True),
    "two scales": Protocol(scales=(1.0, 2.0), flip=True),
    "probs": Protocol(scales=(1.0, 2.0), flip=True, average="probs"),
    "slide": Protocol(window=(64, 64), stride=(24, 32)),
    "slide, one at a time": Protocol(window=(64, 64), stride=(24, 32), window_batch=1),
    "slide and flip": Protocol(window=(64, 96), flip=True, average="probs"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("strip", [1 << 24, 3000])
def test_labels_equal_the_obvious_implementation(model, case, strip, monkeypatch):
    """Same labels wherever the two best classes are not equal to rounding."""
    monkeypatch.setattr("hfgd.resample.BAND_CPU", strip)
    corners = model.backbone.grid is Grid.CORNERS
    double = 1.99 if corners else 2.0  # 97 → 193 and 96 → 192: sizes on the grid
    protocol = CASES[case]
    scales = tuple(double if scale == 2 else scale for scale in protocol.scales)
    protocol = protocol.model_copy(update={"scales": scales})
    image = torch.rand(1, 3, 97, 129) if corners else torch.rand(1, 3, 96, 128)
    with evaluating(model):
        expected = obvious(model, image, protocol)
        labels = label_image(model, image, model.grid, protocol)
    best = expected.topk(2, dim=0).values
    clear = best[0] - best[1] > 1e-4 * best[0].abs().max()
    assert clear.float().mean() > 0.98
    assert torch.equal(labels.long()[clear], expected.argmax(0)[clear])
    assert len(labels.unique()) > 1


@pytest.mark.parametrize("case", CASES)
def test_probabilities_equal_the_obvious_implementation(model, case):
    """The softmax of the scores is that of the mean logits, or the mean of the probabilities."""
    corners = model.backbone.grid is Grid.CORNERS
    protocol = CASES[case]
    double = 1.99 if corners else 2.0  # sizes on the grid
    scales = tuple(double if scale == 2 else scale for scale in protocol.scales)
    protocol = protocol.model_copy(update={"scales": scales})
    image = torch.rand(1, 3, 97, 129) if corners else torch.rand(1, 3, 96, 128)
    with evaluating(model):
        expected = obvious(model, image, protocol)
        scores = reduce_image(model, image, model.grid, protocol, "fine", lambda _, s: s.clone())
    if protocol.average == "logits":
        expected = expected.softmax(0)
    torch.testing.assert_close(scores.softmax(-1).permute(2, 0, 1), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("size", [(97, 131), (33, 500), (50, 33), (40, 41)])
def test_any_size_under_any_protocol(model, size):
    image = torch.rand(1, 3, *size)
    mixed = Protocol(window=(40, 48), scales=(0.5, 1.0, 1.75), flip=True, average="probs")
    with evaluating(model):
        whole = label_image(model, image, model.grid)
        assert torch.equal(whole.long(), model(image).full_size().argmax(1)[0])
        for protocol in (mixed, PROTOCOLS["mf"], Protocol(short_side=64)):
            assert label_image(model, image, model.grid, protocol).shape == size


class Painter(nn.Module):
    """Stands in for a network that sees perfectly: logits say where bright columns are."""

    def __init__(self, grid):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.grid = self.grid = grid

    def forward(self, image, all_branches=None):
        from hfgd.model.network import SegOutput

        size = tuple(image.shape[-2:])
        frame = Frame(size, self.grid.padded(size), self.grid)
        margin = (0, frame.padded[1] - frame.image[1], 0, frame.padded[0] - frame.image[0])
        padded = F.pad(image[:, :1], margin)
        return SegOutput(torch.cat([0.5 - padded, padded - 0.5], 1), None, None, None, None, frame)


@pytest.mark.parametrize("grid", Grid)
@pytest.mark.parametrize("scale", [0.5, 0.75, 1.25, 1.75])
@pytest.mark.parametrize("flip", [False, True])
def test_scales_and_flips_do_not_move_the_picture(grid, scale, flip):
    """A wide edge stays where it is to half a pixel of the scaled image, at any odd size."""
    image = torch.zeros(1, 3, 60, 101)
    image[..., 42:] = 1
    labels = label_image(Painter(grid), image, grid, Protocol(scales=(scale,), flip=flip))
    expected = (image[0, 0] > 0.5).long()
    off = (labels.long() != expected).sum(1).max().item()
    assert off <= math.ceil(0.5 / scale)


def test_one_pass_of_one_scale_with_flip_averages_both():
    image = torch.rand(1, 3, 33, 65)
    labels = label_image(Painter(Grid.CORNERS), image, Grid.CORNERS, Protocol(flip=True))
    assert torch.equal(labels.long(), (image[0, 0] > 0.5).long())


# ---- protocols by name ----------------------------------------------------------------------


def test_protocols_by_name_and_file(tmp_path):
    assert find_protocol("slide", (321, 641)).window == (321, 641)
    assert find_protocol("mf", (1, 1)).describe().startswith("mf: whole image, scales 0.5, 0.75")
    path = tmp_path / "mine.yaml"
    path.write_text("{scales: [1.0, 1.5], flip: true, window: [129, 129], average: probs}")
    mine = find_protocol(str(path), (1, 1))
    assert (mine.name, mine.scales, mine.average) == ("mine", (1.0, 1.5), "probs")
    with pytest.raises(HfgdError, match="no protocol named 'm'"):
        find_protocol("m", (1, 1))
    path.write_text("scale: [1.0]\n")
    with pytest.raises(HfgdError, match="no key named 'scale'; did you mean 'scales'"):
        find_protocol(str(path), (1, 1))
    path.write_text("scales: []\n")
    with pytest.raises(HfgdError, match="scales"):
        find_protocol(str(path), (1, 1))
    with pytest.raises(HfgdError, match="cannot be read"):
        find_protocol(str(tmp_path / "none.yaml"), (1, 1))


# ---- boundary IoU and per-image counts ------------------------------------------------------


def boundary_by_hand(prediction, label, k, width):
    """One class, pixel by pixel."""
    height, columns = label.shape
    masks = []
    for ids in (label, prediction):
        mask = set()
        for y, x in np.ndindex(label.shape):
            if ids[y, x] != k or label[y, x] == IGNORE:
                continue
            near = False
            for v in range(y - width, y + width + 1):
                for u in range(x - width, x + width + 1):
                    outside = not (0 <= v < height and 0 <= u < columns)
                    near |= outside or (label[v, u] != IGNORE and ids[v, u] != k)
            if near:
                mask.add((y, x))
        masks.append(mask)
    return len(masks[0] & masks[1]), len(masks[0] | masks[1])


@pytest.mark.parametrize("width", [1, 2])
def test_boundary_iou_equals_loops_for_many_classes(width):
    rng = np.random.default_rng(width)
    blocks = rng.choice([0, 3, 10, IGNORE], (4, 5))
    label = np.kron(blocks, np.ones((4, 4), dtype=int))
    prediction = np.roll(np.where(label == IGNORE, 3, label), 1, axis=1)
    counts = boundary_counts(torch.tensor(prediction), torch.tensor(label), 11, width)
    for k in range(11):
        assert tuple(counts[:, k].tolist()) == boundary_by_hand(prediction, label, k, width)


def test_boundary_width_is_a_share_of_the_diagonal():
    assert boundary_pixels((300, 400)) == 10
    assert boundary_pixels((3, 4)) == 1


def test_every_images_own_scores():
    tally = Tally(3, boundary=0.02)
    label = torch.tensor([[0, 0, 1, 255]])
    tally.update(torch.tensor([[0, 1, 1, 2]]), label, "first")
    tally.update(torch.tensor([[2, 2, 2, 2]]), torch.full((1, 4), 255), "void")
    scores = tally.scores(ClassSet.numbered(3), 2)
    np.testing.assert_allclose(scores.images.iou()[0], [1 / 2, 1 / 2, np.nan])
    assert scores.images.names == ["first", "void"]
    assert scores.images.miou()[0] == 0.5
    assert math.isnan(scores.images.miou()[1])


def test_groups_and_frequency_weights():
    from hfgd.evaluation.scores import Scores

    scores = Scores(ClassSet.of(["a", "b", "c"]), np.array([[4, 2, 1], [1, 5, 0], [0, 1, 6]]))
    assert scores.group_iou(["a", "b"]) == pytest.approx(12 / (13 + 13 - 12))
    weights = np.array([7, 6, 7]) / 20
    assert scores.fwiou == pytest.approx((scores.iou * weights).sum())
    with pytest.raises(HfgdError, match="no class named 'd'"):
        scores.group_iou(["d"])


def test_scores_agree_with_scikit_learn_and_torchmetrics():
    from sklearn.metrics import confusion_matrix
    from torchmetrics.functional.classification import multiclass_jaccard_index

    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 6, (2, 40, 50))
    label[:5] = IGNORE
    tally = Tally(6, None)
    tally.update(torch.tensor(prediction), torch.tensor(label), "one")
    scores = tally.scores(ClassSet.numbered(6), 1)
    valid = label != IGNORE
    expected = confusion_matrix(label[valid], prediction[valid], labels=range(6))
    assert np.array_equal(scores.matrix, expected)
    theirs = multiclass_jaccard_index(  # agrees as long as no class is absent
        torch.tensor(prediction), torch.tensor(label), 6, ignore_index=IGNORE
    )
    assert scores.miou == pytest.approx(theirs.item(), abs=1e-6)


# ---- comparing models -----------------------------------------------------------------------


def scored(label, predictions):
    tally = Tally(3, None)
    for i, prediction in enumerate(predictions):
        tally.update(torch.tensor(prediction), torch.tensor(label), f"image {i}")
    return tally.scores(ClassSet.numbered(3), len(predictions))


def test_differences_and_their_paired_intervals():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, (20, 20))
    worse = [np.where(rng.uniform(size=label.shape) < 0.5, label, 1 - label) for _ in range(30)]
    better = [np.where(rng.uniform(size=label.shape) < 0.2, label, w) for w in worse]
    a, b = scored(label, worse), scored(label, better)
    rows = {row.name: row for row in differences(a, b)}
    assert rows["mIoU"].points == pytest.approx(100 * (b.miou - a.miou))
    assert 0 < rows["mIoU"].low < rows["mIoU"].points < rows["mIoU"].high
    assert math.isnan(rows["class 2"].low)  # absent from labels and predictions
    same = {row.name: row for row in differences(a, a)}
    assert (same["mIoU"].low, same["mIoU"].high) == (0, 0)


def test_the_interval_is_the_spread_of_resampled_sets():
    """Against a plain loop over resampled sets of images."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, (8, 8))
    sets = [[rng.integers(0, 3, (8, 8)) for _ in range(12)] for _ in range(2)]
    a, b = (scored(label, maps) for maps in sets)
    low, high = bootstrap(a.images, b.images, seed=0)
    changes = []
    for _ in range(1000):
        chosen = rng.integers(0, 12, 12)
        miou = [scored(label, [maps[i] for i in chosen]).miou for maps in sets]
        changes.append(100 * (miou[1] - miou[0]))
    expected = np.percentile(changes, [2.5, 97.5])
    np.testing.assert_allclose([low[-1], high[-1]], expected, atol=0.7)


def test_other_images_are_not_compared():
    label = np.zeros((2, 2), dtype=int)
    with pytest.raises(HfgdError, match="not scored on the same images"):
        differences(scored(label, [label]), scored(label, [label, label]))


def test_telling_images_gain_and_lose_most():
    label = np.array([[0, 0, 1, 1]])
    wrong, right = 1 - label, label
    a, b = scored(label, [wrong, right, right]), scored(label, [right, wrong, right])
    assert telling_images(a, b, 2) == [0, 1]


def test_titles_tell_models_apart():
    assert titles(["runs/a", "runs/b"]) == ["a", "b"]
    assert titles(["runs/a/last", "runs/b/last"]) == ["a/last", "b/last"]
    with pytest.raises(HfgdError, match="the same model twice"):
        titles(["runs/a", "runs/a"])
