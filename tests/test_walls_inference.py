"""From an image to its labels: windows, branches, grids, weights in bf16, many files, no network."""

import errno
import socket
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import hfgd
from conftest import TOYS, recipe, toy
from hfgd.data.classes import ClassSet
from hfgd.data.open import open_dataset
from hfgd.errors import HfgdError
from hfgd.evaluation.compare import compare
from hfgd.evaluation.evaluate_model import EvalConfig, evaluate_model
from hfgd.evaluation.plots import label_panels
from hfgd.evaluation.scoring import evaluate
from hfgd.inference.labeller import InferenceConfig
from hfgd.inference.protocol import Protocol, find_protocol
from hfgd.inference.run_protocol import label_image
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.model import SegOutput
from hfgd.model.backbones import make_backbone
from hfgd.model.build import build
from hfgd.model.network import evaluating
from hfgd.resample import window_axis
from hfgd.training.fit import fit
from hfgd.types import Frame, Grid

ABC = ClassSet.of(["a", "b", "c"])
CPU = torch.device("cpu")

# ---- sliding windows ----------------------------------------------------------------------------


@pytest.mark.parametrize("grid", Grid)
@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.25, 1.5, 1.75])
@pytest.mark.parametrize("side", [41, 64, 65, 97, 130])
@pytest.mark.parametrize(("window", "stride"), [(33, 33), (32, 32), (33, 22), (20, 7)])
def test_windows_see_every_pixel_and_share_it(grid, scale, side, window, stride):
    """Shares sum to 1 at each pixel; a pixel inside n windows is shared by n, counted exactly."""
    protocol = Protocol(window=(window, window), stride=(stride, stride))
    scaled = protocol.scaled((side, side), scale, grid)[0]
    spans, _ = protocol.windows((scaled, scaled))
    total, views = np.zeros(side), np.zeros(side, dtype=int)
    for number, (_, length) in enumerate(spans):
        count = grid.padded((length, length))[0]
        axis = window_axis(grid, side, scaled, spans, number, count, count, False, CPU)
        assert len(axis.share) == axis.last - axis.first
        total[axis.first : axis.last] += axis.share.numpy()
        views[axis.first : axis.last] += 1
    np.testing.assert_allclose(total, 1, atol=1e-6)
    for pixel in range(side):
        if grid is Grid.CORNERS:
            place, edge = Fraction(pixel * (scaled - 1), side - 1), Fraction(0)
        else:
            place = Fraction(2 * pixel + 1, 2) * scaled / side - Fraction(1, 2)
            edge = Fraction(1, 2)
        inside = sum(start - edge <= place <= start + n - 1 + edge for start, n in spans)
        assert views[pixel] == max(1, inside), pixel  # between two windows: one of them


class Second(nn.Module):
    """Says class 1 of every pixel that it is asked about: of one that no window sees, class 0."""

    def __init__(self, grid):
        super().__init__()
        self.grid = grid

    def forward(self, image, all_branches=None):
        size = (image.shape[-2], image.shape[-1])
        frame = Frame(size, self.grid.padded(size), self.grid)
        coarse = [(n + 3) // 4 for n in frame.padded]
        logits = torch.zeros(len(image), 2, *coarse)
        logits[:, 1] = 1
        return SegOutput(logits, None, None, None, None, frame)


@pytest.mark.parametrize("grid", Grid)
@pytest.mark.parametrize("scale", [0.75, 1.25, 1.5])
@pytest.mark.parametrize("average", ["logits", "probs"])
def test_no_pixel_is_left_to_the_first_class(grid, scale, average):
    for size in ((97, 130), (65, 97), (64, 100), (50, 33)):
        protocol = Protocol(window=(33, 33), stride=(33, 33), scales=(scale,), average=average)
        labels = label_image(Second(grid), torch.rand(1, 3, *size), grid, protocol)
        assert labels.shape == size
        assert (labels == 1).all()


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ("window: [32, 32]\nstride: [33, 32]", "stride .33, 32. is larger than window .32, 32."),
        ("stride: [32, 32]", "a stride needs a window"),
        ("scales: [1.0, 0]", "scales.1: Input should be greater than 0"),
        ("scales: []", "scales: "),
        ("window: [32, 0]", "window.1: Input should be greater than 0"),
        ("windw: [32, 32]", "did you mean 'window'"),
        ("- 1", "cannot be read as YAML keys"),
    ],
)
def test_a_protocol_that_leaves_pixels_out_is_refused(tmp_path, keys, sentence):
    (tmp_path / "mine.yaml").write_text(keys)
    with pytest.raises(HfgdError, match=sentence) as refused:
        find_protocol(str(tmp_path / "mine.yaml"), (33, 33))
    assert "mine.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_protocol_that_sees_every_pixel_is_taken(tmp_path):
    (tmp_path / "mine.yaml").write_text("window: [32, 40]\nstride: [32, 40]\nscales: [0.5]")
    found = find_protocol(str(tmp_path / "mine.yaml"), (33, 33))
    assert found == Protocol(name="mine", window=(32, 40), stride=(32, 40), scales=(0.5,))


# ---- the branch and the protocol that were asked for --------------------------------------------


def aux_model():
    """A toy of the problem verification whose auxiliary FCN is the model's answer."""
    model = toy(aux_fcn="joint")
    model = build(model.config.model, ABC)
    model.config = model.config.model_copy(update={"branch": "aux"})
    return model


def lively(model, image):
    """The model with its classes balanced on an image, so that it does not say one of all pixels."""
    with evaluating(model):
        logits = model(image[None].float() / 255).logits
    with torch.no_grad():
        model.hfgm.tokens.bias -= logits.mean((0, 2, 3)).clone()
    assert len(NetworkLabeller(model).labels(image).unique()) == len(model.classes)
    return model


def answers(model, image, branch):
    with evaluating(model):
        return model(image[None].float() / 255, all_branches=True).labels(branch)[0]


def test_compare_and_eval_take_the_models_own_branch(folder, tmp_path, monkeypatch):
    model = aux_model()
    model.save(tmp_path / "aux")
    fine = toy()
    build(fine.config.model, ABC).save(tmp_path / "fine")
    shown = []
    monkeypatch.setattr(
        "hfgd.evaluation.compare.panels", lambda rows, *rest, **named: shown.extend(rows)
    )
    paths = [str(tmp_path / name) for name in ("aux", "fine")]
    text = compare(paths, InferenceConfig(), EvalConfig(str(folder)), tmp_path / "out")
    assert "- branch: aux of aux" in text
    val = {sample.name: sample.image for sample in open_dataset(str(folder), "val")}
    assert shown
    for row in shown:
        aux, other = (answers(model, val[row.name], branch) for branch in ("aux", "fine"))
        assert (aux != other).any()
        assert torch.equal(torch.from_numpy(row.predictions["aux"]), aux)
    own, _ = evaluate_model(paths[0], EvalConfig(str(folder)), InferenceConfig(), tmp_path / "own")
    told, _ = evaluate_model(
        paths[0], EvalConfig(str(folder)), InferenceConfig(branch="aux"), tmp_path / "told"
    )
    other, _ = evaluate_model(
        paths[0], EvalConfig(str(folder)), InferenceConfig(branch="fine"), tmp_path / "other"
    )
    assert (own.branch, other.branch) == ("aux", "fine")
    assert np.array_equal(own.scores.matrix, told.scores.matrix)
    assert not np.array_equal(own.scores.matrix, other.scores.matrix)


def test_compare_shows_labels_under_its_protocol(folder, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("scales: [0.5, 1.5]\nflip: true\nwindow: [33, 33]")
    val = {sample.name: sample.image for sample in open_dataset(str(folder), "val")}
    model = lively(build(toy().config.model, ABC), val["val0"])
    model.save(tmp_path / "one")
    build(toy(width=16).config.model, ABC).save(tmp_path / "two")
    shown = []
    monkeypatch.setattr(
        "hfgd.evaluation.compare.panels", lambda rows, *rest, **named: shown.extend(rows)
    )
    paths = [str(tmp_path / name) for name in ("one", "two")]
    compare(
        paths,
        InferenceConfig(str(tmp_path / "mine.yaml")),
        EvalConfig(str(folder)),
        tmp_path / "out",
    )
    protocol = find_protocol(str(tmp_path / "mine.yaml"), (33, 33))
    assert shown
    for row in shown:
        asked = NetworkLabeller(model, protocol).labels(val[row.name])
        assert not torch.equal(asked, NetworkLabeller(model).labels(val[row.name]))
        assert torch.equal(torch.from_numpy(row.predictions["one"]), asked)


def test_panels_of_a_run_show_its_branch(folder, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "hfgd.evaluation.plots.panels", lambda rows, *rest, **named: shown.extend(rows)
    )
    short = {"train.iterations": 1, "branch": "aux", "model.aux_fcn": "joint"}
    run = fit(recipe(folder, **short), tmp_path / "run")
    assert len(shown) == 1
    (row,) = shown
    val = {sample.name: sample.image for sample in open_dataset(str(folder), "val")}
    aux, fine = (answers(run.model, val[row.name], branch) for branch in ("aux", "fine"))
    assert not torch.equal(aux, fine)
    assert torch.equal(torch.from_numpy(row.predictions["toy"]), aux)


# ---- grids ---------------------------------------------------------------------------------------

CORNERS = """resnet18 resnext50_32x4d seresnet18 regnetx_002 regnety_002 mobilenetv2_050
    mobilenetv3_small_050 mobilenetv4_conv_small_050 mnasnet_small semnasnet_075 efficientnet_b0
    efficientnet_lite0 efficientnetv2_rw_t tf_efficientnet_b0 tf_efficientnetv2_b0 fbnetc_100
    ghostnet_100 hardcorenas_a res2net50_26w_4s resnest14d rexnet_100 repvit_m0_9 starnet_s1
    tiny_vit_5m_224 efficientvit_b0 mambaout_femto pvt_v2_b0""".split()
CELLS = """convnext_atto convnextv2_atto swin_tiny_patch4_window7_224
    swinv2_tiny_window8_256 swinv2_cr_tiny_ns_224 poolformer_s12 edgenext_xx_small
    inception_next_atto twins_pcpvt_small
    focalnet_tiny_srf""".split()
REFUSED = """hiera_tiny_224 efficientformerv2_s0 coatnet_pico_rw_224""".split()


@pytest.mark.parametrize("name", [*CORNERS, *CELLS])
def test_the_grid_of_a_family(name):
    """Corners: at 65 × 97 each level has (n - 1) / s + 1 samples; cells: at 64 × 96 n / s."""
    options = dict(TOYS["swin"].options) if name.startswith("swin_") else {}
    backbone = make_backbone(name=name, options=options)
    corners = name in CORNERS
    assert backbone.grid is (Grid.CORNERS if corners else Grid.CELLS)
    size = (65, 97) if corners else (64, 96)
    with torch.no_grad():
        maps = backbone.eval()(torch.rand(1, 3, *size))
    for x, stride in zip(maps, (4, 8, 16, 32), strict=True):
        wanted = [(n - 1) // stride + 1 if corners else n // stride for n in size]
        assert list(x.shape[-2:]) == wanted


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_without_a_grid_is_refused(name):
    with pytest.raises(HfgdError, match=f"backbone '{name}'") as refused:
        make_backbone(name=name)
    assert "\n" not in str(refused.value)
    assert "choose" in str(refused.value)


# ---- a model cast to bf16 --------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["cae", "ocr", "sa", "aspp", "ppm"])
def test_a_model_in_bf16_predicts_is_scored_and_drawn(folder, tmp_path, encoder):
    spec = toy(encoder=encoder, axial_attention=True, upsampler="u_sfpn").config.model
    val = open_dataset(str(folder), "val")
    model = lively(build(spec, ABC), val[0].image)
    exact = NetworkLabeller(model).labels(val[0].image)
    model = model.to(torch.bfloat16)
    labels = model.predict(val[0].image.permute(1, 2, 0).numpy()).labels
    labeller = NetworkLabeller(model)
    assert labeller.precision == "bfloat16"
    scores = evaluate(labeller, val)
    assert scores.matrix.sum() == sum(int((sample.label != 255).sum()) for sample in val)
    label_panels({"bf16": labeller}, val, 2, tmp_path / "panels.png")
    assert Image.open(tmp_path / "panels.png").size[0] > 100
    # three digits: most pixels keep their class, and 1 in 3 would by chance
    assert (torch.from_numpy(labels) == exact).float().mean() > 0.8
    assert next(model.parameters()).dtype == torch.bfloat16


# ---- many files ------------------------------------------------------------------------------------


class Counting:
    """A labeller that counts its calls and runs out of something at images of one width."""

    branch, precision, classes, protocol = "fine", "fp32", ABC, Protocol()
    gives_scores, calibrated_on = False, None

    def __init__(self, error=None, width=77):
        self.error, self.width, self.calls = error, width, 0

    def __call__(self, pixels):
        self.calls += 1
        if self.error is not None and pixels.shape[1] == self.width:
            raise self.error
        return np.zeros(pixels.shape[:2], np.uint8)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(12):
        width = 77 if i == 3 else 50
        Image.fromarray(np.full((40, width, 3), i, np.uint8)).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def saved(tmp_path):
    model = build(toy(width=16).config.model, ABC)
    return model.save(tmp_path / "model")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"
        ),
        MemoryError(),
    ],
)
def test_an_image_that_needs_too_much_memory_is_named(
    run, pictures, saved, tmp_path, monkeypatch, error
):
    labeller, collected = Counting(error), []
    monkeypatch.setattr("hfgd.predict.run.open_labeller", lambda path, how: labeller)
    monkeypatch.setattr("hfgd.predict.run.gc.collect", lambda: collected.append(1))
    whole = (pictures / "11.png").read_bytes()
    (pictures / "11.png").write_bytes(b"broken")  # which is no reason to collect
    words = ["predict", saved, pictures, "--out", tmp_path / "out"]
    code, out, err = run(*words)
    assert code == 1
    assert len(collected) == 1
    assert f"'{pictures / '03.png'}': not enough memory for an image of its size" in err
    assert "2 could not be labelled" in err
    assert "10 images labelled" in out
    assert labeller.calls == 11
    for kind in ("labels", "overlays"):
        names = sorted(path.stem for path in (tmp_path / "out" / kind).iterdir())
        assert names == [f"{i:02}" for i in range(11) if i != 3]
    labeller.error = None  # the same command does what is missing, and that alone
    (pictures / "11.png").write_bytes(whole)
    code, out, _ = run(*words)
    assert (code, labeller.calls) == (0, 13)
    assert "2 images labelled (10 had been before)" in out
    (tmp_path / "out/overlays/05.png").unlink()
    assert run(*words)[0] == 0
    assert labeller.calls == 14
    assert run(*words)[0] == 0
    assert labeller.calls == 14


def test_results_of_another_model_or_settings_are_kept(run, pictures, saved, tmp_path):
    words = ["predict", saved, pictures, "--out", tmp_path / "out", "--precision", "fp32"]
    assert run(*words)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    other = build(toy(width=16).config.model, ABC).save(tmp_path / "other")
    (tmp_path / "flip.yaml").write_text("flip: true")
    for changed in (
        ["predict", other, *words[2:]],
        [*words, "--opacity", "0.25"],
        [*words, "--protocol", tmp_path / "flip.yaml"],
        [*words[:-1], "bf16"],
    ):
        code, _, err = run(*changed)
        assert code == 2
        assert "holds results of another model or of other settings" in err
        assert len(err.strip().splitlines()) == 1
    model = hfgd.load(saved)
    time.sleep(0.02)  # the file's time is what tells a model that was trained on
    model.save(saved)
    assert run(*words)[0] == 2
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}


def test_a_full_disk_ends_predict_in_a_sentence(run, pictures, saved, tmp_path, monkeypatch):
    from hfgd import files
    from hfgd.predict import run as running
    from hfgd.predict import writer

    save, written = writer.save_png, []

    def filling(image, place, name, **options):
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device", str(place.path(name)))
        written.append(name)
        save(image, place, name, **options)

    assert files.is_disk_full(OSError(errno.ENOSPC, ""))
    labeller = Counting()
    monkeypatch.setattr(running, "open_labeller", lambda path, how: labeller)
    monkeypatch.setattr(writer, "save_png", filling)
    code, _, err = run("predict", saved, pictures, "--out", tmp_path / "out")
    assert code == 2
    said = [line for line in err.splitlines() if line.startswith("hfgd: ")]
    assert len(said) == 1
    assert said[0].startswith(f"hfgd: the disk is full while writing '{tmp_path / 'out'}")
    assert "Traceback" not in err
    assert labeller.calls < 12


# ---- no network --------------------------------------------------------------------------------------


def test_weights_that_cannot_be_fetched_are_given_up_at_once(tmp_path, monkeypatch):
    """A port that refuses, an empty cache: the sentence without a wait between attempts."""
    from huggingface_hub import constants

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, str(tmp_path / "cache"), raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    asked = []
    connect = socket.create_connection

    def connecting(address, *rest, **named):
        asked.append(address)
        return connect(address, *rest, **named)

    def waiting(seconds):
        raise AssertionError(f"waits {seconds} s before another attempt")

    monkeypatch.setattr(socket, "create_connection", connecting)
    monkeypatch.setattr(time, "sleep", waiting)
    with pytest.raises(
        HfgdError, match="the pre-trained weights of 'resnet18' are not in the"
    ) as e:
        make_backbone(name="resnet18", pretrained=True)
    assert "model.backbone.pretrained=PATH" in str(e.value)
    assert "AssertionError" not in str(e.value)  # _explain names what was raised below
    assert asked == [("127.0.0.1", port)]
    assert constants.HF_HUB_OFFLINE is False
