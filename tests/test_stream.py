"""The sample stream of old recipes, bit for bit as it was before there were more operations."""

import hashlib

import numpy as np
import pytest
import torch

from hfgd.data.classes import ClassSet
from hfgd.data.dataset import Sample
from hfgd.data.loader import TrainStream
from hfgd.data.transforms.pipeline import Augment
from hfgd.data.transforms.spec import AugmentSpec
from hfgd.types import Grid

MEAN = torch.tensor([0.485, 0.456, 0.406])
GOLDEN = {  # recorded with commit 9a888f0, before data/transforms.py became a package
    ("none", Grid.CORNERS, 0): "00b410be097e59db",
    ("none", Grid.CORNERS, 5): "497c45912a3564b6",
    ("none", Grid.CELLS, 0): "e1496ab79c416e42",
    ("none", Grid.CELLS, 5): "93f11edb6ebefdfe",
    ("plain", Grid.CORNERS, 0): "6f782614d8528dea",
    ("plain", Grid.CORNERS, 5): "cd83a8e036de1ea5",
    ("plain", Grid.CELLS, 0): "0759921437eda2a9",
    ("plain", Grid.CELLS, 5): "421ceac89fa92eb4",
    ("advanced", Grid.CORNERS, 0): "4748bdeedd815bcf",
    ("advanced", Grid.CORNERS, 5): "ed9f6685802af9a3",
    ("advanced", Grid.CELLS, 0): "f9080655d2836c77",
    ("advanced", Grid.CELLS, 5): "0288c3f39f489d7c",
}


class Noise:
    """Seven images of random pixels and blocks of four classes, no two of one size."""

    classes, title = ClassSet.numbered(4), "noise"

    def __len__(self):
        return 7

    def __getitem__(self, index):
        rng = np.random.default_rng([99, index])
        height, width = 40 + 3 * index, 71 - 5 * index
        image = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
        blocks = rng.choice([0, 1, 2, 3, 255], (height // 8 + 1, width // 8 + 1)).astype(np.uint8)
        label = blocks.repeat(8, 0).repeat(8, 1)[:height, :width]
        return Sample(torch.from_numpy(image), torch.from_numpy(label), str(index))


def digest(spec, grid, seed):
    stream, found = TrainStream(Noise(), Augment(spec, MEAN, grid), seed), hashlib.sha256()
    for k in (*range(20), 1000, 10**9):
        sample = stream[k]
        found.update(sample.image.numpy().tobytes() + sample.label.numpy().tobytes())
        found.update(sample.name.encode())
    return found.hexdigest()[:16]


CASES = [
    (colours, grid, seed)
    for colours in ("none", "plain", "advanced")
    for grid in Grid
    for seed in (0, 5)
]


@pytest.mark.parametrize(("colours", "grid", "seed"), CASES)
def test_the_old_stream_is_unchanged(colours, grid, seed):
    spec = AugmentSpec(crop=(33, 47), colours=colours)
    assert digest(spec, grid, seed) == GOLDEN[colours, grid, seed]
