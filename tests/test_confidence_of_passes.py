"""Confidence does not grow with the number of passes: everything that reads scores."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import toy
from hfgd.checkpoint import save_model
from hfgd.data.classes import IGNORE
from hfgd.evaluation.scoring import evaluate
from hfgd.inference.confidence import ConfidenceConfig, label
from hfgd.inference.protocol import PROTOCOLS, Protocol
from hfgd.inference.temperature import Histograms
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.predict.tiles import Tiles, label_tiles
from hfgd.review.quality import QualityTerms, judge
from hfgd.review.select import look

SHARES = (0.6, 0.3, 0.1)  # of the three classes, at every pixel, scale and flip
SIZE = (40, 50)
PROTOCOLS_OF_MANY_PASSES = {
    "mf": PROTOCOLS["mf"],
    "windows": Protocol(window=(32, 32), stride=(8, 16)),
    "windows, scales, flips": Protocol(window=(32, 32), scales=(0.5, 1.0, 1.5), flip=True),
    "probabilities": Protocol(scales=(1.0, 0.5), flip=True, average="probs"),
    "windows of probabilities": Protocol(window=(32, 32), stride=(8, 16), average="probs"),
}


def constant():
    """A network that gives the same scores at every pixel of every image: their softmax is SHARES."""
    model = toy(3)
    with torch.no_grad():
        model.hfgm.tokens.weight.zero_()
        model.hfgm.tokens.bias.copy_(torch.tensor(SHARES).log() + 2)
    return model.eval()


@pytest.fixture(params=PROTOCOLS_OF_MANY_PASSES)
def protocol(request):
    return PROTOCOLS_OF_MANY_PASSES[request.param]


def test_every_reader_of_scores_sees_the_probability_of_one_pass(protocol):
    labeller = NetworkLabeller(constant(), protocol)
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    # predict's manifest and its confidence maps, and pixels below --min-confidence
    assert label(labeller, pixels).confidence == pytest.approx(0.6, abs=1e-5)
    below, above = (
        label(labeller, pixels, ConfidenceConfig(True, minimum)) for minimum in (0.61, 0.59)
    )
    assert (below.labels == IGNORE).all()
    assert (above.labels == 0).all()
    assert (above.sure == round(255 * 0.6)).all()
    # an image in tiles, whose scores are blended
    tiles = Tiles(cell=32, overlap=8)

    def read(top, left, height, width):
        return pixels[top : top + height, left : left + width]

    blocks = list(label_tiles(labeller, SIZE, read, tiles))
    assert len(blocks) > 1
    sure = sum(block.confidence for block in blocks)
    assert sure / math.prod(SIZE) == pytest.approx(0.6, abs=1e-5)
    # review: the probability of the annotated class, and what is looked at next
    found = judge(labeller, image, torch.ones(SIZE, dtype=torch.uint8), QualityTerms(sure=0.61))
    assert found.mean == pytest.approx(0.3, abs=1e-5)
    assert found.quality == pytest.approx(0.3, abs=1e-5)
    assert found.suspect == 0
    entropy = -sum(p * math.log(p) for p in SHARES) / math.log(3)
    seen = look(labeller, image, False)
    assert seen["entropy"] == pytest.approx(entropy, abs=1e-5)
    assert seen["margin"] == pytest.approx(1 - 0.3, abs=1e-5)


class Drawn:
    """Two images whose labels are drawn from SHARES: scores of this network are calibrated."""

    title = "drawn"

    def __init__(self):
        rng = np.random.default_rng(1)
        self.classes = toy(3).classes
        self.maps = rng.choice(3, p=SHARES, size=(2, *SIZE)).astype(np.uint8)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        from hfgd.data.dataset import Sample

        image = torch.full((3, *SIZE), 100, dtype=torch.uint8)
        return Sample(image, torch.from_numpy(self.maps[index]), f"image {index}")


def test_calibration_finds_the_temperature_of_one_pass(protocol):
    counts = Histograms()
    evaluate(NetworkLabeller(constant(), protocol), Drawn(), confidence=counts)
    fitted = counts.fitted()
    assert fitted.temperature == pytest.approx(1, rel=0.2)  # a step of its grid is 9 %
    assert fitted.before < 0.02


def test_the_command_writes_the_confidence_of_one_pass(run, tmp_path):
    save_model(constant(), tmp_path / "model")
    Image.new("RGB", SIZE[::-1], "grey").save(tmp_path / "grey.png")
    for name in ("ss", "mf"):
        out = tmp_path / name
        words = ("--protocol", name, "--out", out, "--confidence", "--min-confidence", 0.61)
        code, _, err = run("predict", tmp_path / "model", tmp_path / "grey.png", *words)
        assert code == 0, err
        written = np.asarray(Image.open(out / "confidence/grey.png"))
        assert np.abs(written.astype(int) - 153).max() <= 1
        assert (np.asarray(Image.open(out / "labels/grey.png")) == IGNORE).all()


def test_a_probability_of_nothing_stays_a_number_when_tiles_are_blended():
    """exp(-200) is 0 in fp32; its logarithm times a weight of 0 must not become NaN."""
    model = constant()
    with torch.no_grad():
        model.hfgm.tokens.bias.copy_(torch.tensor([0.0, 200.0, -200.0]))
    labeller = NetworkLabeller(model, Protocol(flip=True, average="probs"))
    pixels = np.zeros((*SIZE, 3), dtype=np.uint8)

    def read(top, left, height, width):
        return pixels[top : top + height, left : left + width]

    for block in label_tiles(labeller, SIZE, read, Tiles(cell=32, overlap=8)):
        assert (block.labels == 1).all()
        assert block.confidence == pytest.approx(block.labels.size)
