"""Custom data sets, networks and arrays: what does not fit is one sentence."""

import numpy as np
import pytest
import torch
from torch import nn

import hfgd
from conftest import recipe, toy
from hfgd.data.classes import ClassSet
from hfgd.data.dataset import Sample
from hfgd.errors import HfgdError
from hfgd.evaluation.scoring import Tally
from hfgd.model.network import Network, SegOutput
from hfgd.review.pool import Chosen, ReviewSet
from hfgd.training.fit import fit
from hfgd.types import Frame, Grid

CLASSES = ClassSet.of(["a", "b", "c"])


class Data:
    """Four images, each of which ``change`` may spoil."""

    classes, title = CLASSES, "mine"

    def __init__(self, change=lambda image, label: (image, label), only=range(4)):
        self.change, self.only, self.images_read = change, only, 0

    def __len__(self):
        return 4

    def label(self, index):
        return torch.randint(0, 3, (40, 50), dtype=torch.uint8)

    def __getitem__(self, index):
        self.images_read += 1
        image = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
        pair = image, self.label(index)
        return Sample(*(self.change(*pair) if index in self.only else pair), f"image {index}")


class Mine(Network):
    """A custom network with ``count`` logits for three classes."""

    def __init__(self, count=3):
        super().__init__()
        self.classes, self.grid, self.mean = CLASSES, Grid.CELLS, torch.zeros(3)
        self.conv = nn.Conv2d(3, count, 1)

    def forward(self, image, all_branches=None):
        size = tuple(image.shape[-2:])
        return SegOutput(self.conv(image), None, None, None, None, Frame(size, size, self.grid))


class Two(Mine):
    """A forward without ``all_branches``."""

    def forward(self, image):
        return super().forward(image)


class Nothing(Mine):
    """A forward that forgets its return."""

    def forward(self, image, all_branches=None):
        super().forward(image)


class Tied(Mine):
    """One weight under two names."""

    def __init__(self):
        super().__init__()
        self.again = self.conv


def train(tmp_path, network=None, data=None, **changes):
    short = {"train.iterations": 1, "train.validate_every": 1, "loss.guide": 0.0, **changes}
    run = recipe(tmp_path, **short)
    return fit(run, tmp_path / "run", network=network or Mine(), data=(data or Data(), Data()))


def with_id(value):
    def change(image, label):
        label[3, 4] = value
        return image, label

    return change


WRONG = {
    "int64 labels": (lambda i, y: (i, y.long()), r"label must be \(H, W\) uint8 .* int64"),
    "negative labels": (lambda i, y: (i, y.to(torch.int8) - 1), r"label must be .* int8"),
    "float images": (lambda i, y: (i.float() / 255, y), r"image must be \(3, H, W\) .* float32"),
    "an id too large": (with_id(3), r"label holds the id 3, and there are 3 classes"),
    "another size": (lambda i, y: (i, y[:, 1:]), r"label is \(40, 49\) and its image \(40, 50\)"),
    "channels last": (lambda i, y: (i.permute(1, 2, 0), y), r"image must be \(3, H, W\)"),
    "a label with an axis too many": (lambda i, y: (i, y[None]), r"label must be \(H, W\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_data_set_of_another_form_is_named_before_anything_is_written(case, tmp_path):
    change, words = WRONG[case]
    with pytest.raises(HfgdError, match=rf"data set 'mine', image 'image 0': {words}"):
        train(tmp_path, data=Data(change))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_later_sample_is_named_too(workers, tmp_path):
    changes = {"train.iterations": 8, "train.workers": workers}
    with pytest.raises(HfgdError, match=r"image 'image 2': label holds the id 3"):
        train(tmp_path, data=Data(with_id(3), only=[2]), **changes)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda: Mine(4), r"logits must be \(B, 3, h, w\), .* got shape \(2, 4, 33, 33\)"),
        (lambda: Mine(2), r"logits must be \(B, 3, h, w\), .* got shape \(2, 2, 33, 33\)"),
        (Nothing, "must return a SegOutput, not NoneType"),
        (Two, r"Two\.forward must take all_branches"),
    ],
)
def test_a_network_of_another_form_is_named_at_its_first_output(network, words, tmp_path):
    with pytest.raises(HfgdError, match=words):
        train(tmp_path, network())


def test_a_network_with_more_logits_than_classes_does_not_predict():
    with pytest.raises(HfgdError, match=r"logits must be \(B, 3, h, w\)"):
        Mine(4).predict(np.zeros((40, 50, 3), dtype=np.uint8))


def test_tied_weights_are_saved_and_loaded(tmp_path):
    network = Tied()
    network.save(tmp_path / "model")
    again = hfgd.load(tmp_path / "model", network=Tied())
    assert torch.equal(again.conv.weight, network.conv.weight)
    assert again.again.weight is again.conv.weight


@pytest.mark.parametrize(("prediction", "label"), [(3, 0), (0, 3), (-1, 0), (200, 1)])
def test_scores_refuse_what_is_outside_the_classes(prediction, label):
    tally = Tally(3, None)
    good = torch.zeros(4, 5, dtype=torch.int64)
    tally.update(good, good, "first")
    tally.update(torch.full((4, 5), prediction), torch.full((4, 5), label), "second")
    with pytest.raises(HfgdError, match=r"image 'second': .* outside the 3 classes \(0 to 2"):
        tally.scores(CLASSES, 2)


# ---- arrays ---------------------------------------------------------------------------------


def test_arrays_as_people_have_them_are_labelled_as_their_plain_copy():
    model = toy(3).eval()
    bgr = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    rgb = np.ascontiguousarray(bgr[..., ::-1])
    expected = model.predict(rgb).labels
    assert len(np.unique(expected)) > 1
    fixed = rgb.copy()
    fixed.flags.writeable = False
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    for image in (bgr[..., ::-1], fixed, np.asfortranarray(rgb), tensor):
        np.testing.assert_array_equal(model.predict(image).labels, expected)
    grey = bgr[..., 0]
    np.testing.assert_array_equal(
        model.predict(grey).labels, model.predict(np.stack([grey] * 3, -1)).labels
    )


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 5, 3)), r"\(255 \* array\).round\(\)"),
        (np.zeros((4, 5, 4), np.uint8), r"must be \(H, W, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), "must have pixels"),
        (np.zeros((0, 5), np.uint8), "must have pixels"),
        ([], "not a list"),
        ([np.zeros((4, 5, 3), np.uint8)], "one at a time"),
        (None, "not a NoneType"),
        (torch.zeros(3, 4, 5), r"image tensor must be \(3, H, W\) uint8 .* float32"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), "image tensor must be"),
        (torch.zeros(3, 0, 5, dtype=torch.uint8), "must have pixels"),
    ],
)
def test_other_arrays_are_refused_in_a_sentence(image, words):
    with pytest.raises(HfgdError, match=words):
        toy(3).predict(image)


def test_a_network_refuses_bytes():
    with pytest.raises(HfgdError, match=r"floats in \[0, 1\], not torch.uint8"):
        toy(3)(torch.zeros(1, 3, 33, 33, dtype=torch.uint8))


# ---- small surprises ------------------------------------------------------------------------


def test_create_takes_the_name_of_a_backbone():
    model = hfgd.create("hfgd_mobilenetv2", num_classes=3, backbone="resnet18", width=32)
    assert model.config.model.backbone.name == "resnet18"
    with pytest.raises(HfgdError, match="no backbone named 'resnet1'"):
        hfgd.create("hfgd_mobilenetv2", num_classes=3, backbone="resnet1")
    with pytest.raises(HfgdError, match="backbone takes a name"):
        hfgd.create("hfgd_mobilenetv2", num_classes=3, backbone=18)


def test_classes_are_indexed_as_their_names():
    assert (CLASSES[0], CLASSES[-1], CLASSES[1:], list(CLASSES)) == ("a", "c", ("b", "c"), [*"abc"])
    assert "b" in CLASSES


@pytest.mark.parametrize("name", ["file.xml", "file.onnx", "file.pt2"])
def test_load_names_what_runs_an_exported_file(name, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(HfgdError, match=r"hfgd\.export\.runtime\.ExportedModel"):
        hfgd.load(tmp_path / name)


def test_folds_of_a_review_give_labels_without_reading_images():
    data = Data()
    pool = ReviewSet({"train": data})
    read = data.images_read  # for the names of images without files
    fold = Chosen(pool, [1, 3], "fold")
    assert pool.label(0).shape == fold.label(1).shape == (40, 50)
    assert data.images_read == read
