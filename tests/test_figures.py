"""The paper's figures: their numbers against loops and known values, and what is said of bad input."""

import csv
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from conftest import toy
from hfgd.cli.figure import figure
from hfgd.data.classes import IGNORE, ClassSet
from hfgd.data.dataset import Sample
from hfgd.data.known import KNOWN
from hfgd.data.scenes import CLASSES, ScenesDataset
from hfgd.errors import HfgdError
from hfgd.evaluation.plots import PanelRow
from hfgd.figures import FIGURES, FigureRequest, draw, features, flow, panels, tokens
from hfgd.figures.common import Reservoir, TrainedRun, kind_of, sampled
from hfgd.figures.features import distance_ratio, most_confused, silhouette
from hfgd.model import ModelSpec
from hfgd.model.config import GUIDANCE, NO_STOP_GRADIENT
from hfgd.recipes import find_recipe

GUIDED = {"guidance": GUIDANCE, "axial_attention": True}


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def saved(folder, name, classes=CLASSES, seed=0, **model):
    torch.manual_seed(seed)
    network = toy(len(classes), **model)
    network.classes = classes
    network.config = network.config.model_copy(
        update={"name": name, "classes": classes.names, "palette": classes.palette}
    )
    return str(network.save(folder / name.replace("/", "-")))


@pytest.fixture
def runs(tmp_path):
    return [
        saved(tmp_path, "section5.1/fcn", upsampler="none"),
        saved(tmp_path, "table3/none", seed=1),
        saved(tmp_path, "table3/full", seed=2, **GUIDED),
    ]


# ---- figure 6 ----------------------------------------------------------------------------------


def test_dependencies_by_hand():
    weight = torch.randn(5, 7)
    found = tokens.dependencies(weight)
    for i in range(5):
        raw = [math.exp(sum(weight[i] * weight[j]).item() / math.sqrt(7)) for j in range(5)]
        np.testing.assert_allclose(found[i], np.array(raw) / sum(raw), rtol=1e-5)


def test_the_papers_statement_stands_beside_ours():
    def of(title, kind, strength):
        matrix = np.full((4, 4), (1 - strength) / 3)
        np.fill_diagonal(matrix, strength)
        return tokens.Dependencies(title, kind, 8, matrix, 1.0)

    *_, last = tokens.compared([of("a", "FCN", 0.5), of("b", "SemanticFPN", 0.4)])
    assert "paper: " in last
    assert "about 20 % lower" in last
    assert "b's is 20.0 % lower than a's" in last


@pytest.mark.parametrize("name", ["pascal_context", "coco_stuff164k"])
def test_names_of_many_classes_do_not_overlap(name):
    """At 59 and 171 classes every name is as high as its row, or less, and stands in the picture."""
    names = KNOWN[name].classes.names
    each = tokens.Dependencies("run", "FCN", 8, np.eye(len(names)), 1.0)
    figure = tokens._picture([each], names, ["text"])
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [t.get_window_extent(renderer) for t in figure.axes[0].get_yticklabels()]
    assert len(boxes) == len(names)
    assert boxes[0].height >= 7  # pixels
    tops = sorted((box.y0, box.y1) for box in boxes)
    assert all(a[1] <= b[0] + 0.5 for a, b in pairwise(tops))
    assert min(box.x0 for box in boxes) >= 0


# ---- figure 4 ----------------------------------------------------------------------------------


def scattered():
    """Forty features of three classes that overlap, and their classes."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)).astype(np.float32), np.repeat([4, 7, 9], [5, 15, 20])
    return (x + y[:, None] * 0.3).astype(np.float32), y


@pytest.mark.slow  # importing scikit-learn takes seconds
def test_silhouette_against_loops():
    x, y = scattered()
    far = [[math.dist(a, b) for b in x.tolist()] for a in x.tolist()]
    values = []
    for i in range(40):
        mean = {
            k: np.mean([far[i][j] for j in range(40) if y[j] == k and j != i]) for k in (4, 7, 9)
        }
        a, b = mean.pop(y[i]), min(v for k, v in mean.items() if k != y[i])
        values.append((b - a) / max(a, b))
    assert silhouette(x, y) == pytest.approx(np.mean(values), rel=1e-4)


def test_distance_ratio_against_loops():
    x, y = scattered()
    centres = {k: x[y == k].astype(float).mean(0) for k in (4, 7, 9)}
    within = np.mean([np.mean([math.dist(v, c) for v in x[y == k]]) for k, c in centres.items()])
    pairs = [(4, 7), (4, 9), (7, 9)]
    between = np.mean([math.dist(centres[a], centres[b]) for a, b in pairs])
    assert distance_ratio(x, y) == pytest.approx(between / within)
    assert distance_ratio(5 * x, y) == pytest.approx(between / within)  # scale does not matter


def test_most_confused_takes_the_worst_pairs():
    matrix = np.array([[90, 10, 0, 0], [0, 70, 30, 0], [0, 20, 80, 0], [0, 0, 0, 0]])
    assert most_confused(matrix, 2) == [1, 2]
    assert most_confused(matrix, 3) == [1, 2, 0]
    assert most_confused(matrix, 8) == [1, 2, 0]  # the fourth class has no pixels


@pytest.mark.parametrize(
    "model",
    [{}, {"upsampler": "none"}, GUIDED, {"aux_fcn": "joint"}, {"stride": 2, "upsampler": "u_sfpn"}],
)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext"])
def test_features_are_what_the_logits_are_made_of(model, backbone):
    network = toy(5, backbone, **model).eval()
    branches = ["fine"] + ["guide"] * ("guidance" in model) + ["aux"] * ("aux_fcn" in model)
    image = (255 * torch.rand(3, 45, 70)).byte()
    rows, columns = np.array([0, 7, 44, 20]), np.array([69, 0, 33, 12])
    with torch.no_grad():
        output = network(image[None].float() / 255, all_branches=True)
    for branch in branches:
        run = TrainedRun("run", network, branch, "")
        found = torch.from_numpy(features.features_of(run, image, rows, columns))
        logits = found @ run.tokens.weight.T + run.tokens.bias
        expected = output.full_size(branch)[0][:, rows, columns].T
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


class Stripes:
    """Label maps of columns: class 0 everywhere but in one column of class 1 and one ignored."""

    classes, title = ClassSet.numbered(3), "stripes"

    def __len__(self):
        return 40

    def __getitem__(self, index):
        label = torch.zeros(6, 10, dtype=torch.uint8)
        label[:, 3], label[:, 5] = 1, IGNORE
        return Sample(torch.zeros(3, 6, 10, dtype=torch.uint8), label, str(index))


def test_a_sample_is_capped_fixed_and_even():
    one, again, other = (sampled(Stripes(), [0, 1, 2], 50, [s])[0] for s in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one.image, other.image)
    assert [(one.label == k).sum() for k in (0, 1, 2)] == [50, 50, 0]
    assert set(one.column[one.label == 1]) == {3}
    assert not {3, 5} & set(one.column[one.label == 0])
    assert (np.diff(one.image) >= 0).all()
    # which other classes are drawn changes nothing
    alone = sampled(Stripes(), [1], 50, [0])[0]
    assert np.array_equal(alone.row, one.row[one.label == 1])
    # every image is drawn from equally: 12 000 of 19 200 pixels, 300 of each image on average
    many = sampled(Stripes(), [0], 960, range(12))
    counts = np.bincount(np.concatenate([s.image for s in many]), minlength=40)
    assert abs(counts - 288).max() < 5 * math.sqrt(288 / 2)  # a hypergeometric's deviation


def test_a_reservoir_does_not_grow():
    reservoir = Reservoir([0], 30, 0)
    for i in range(50):
        reservoir.add(i, np.zeros((20, 20), dtype=np.uint8))
        numbers, kept = reservoir._kept[0]
        assert len(numbers) == len(kept) == 30


def test_samples_are_read_in_their_own_order():
    """All samples in one pass give what each alone gives."""
    dataset = ScenesDataset("val", 3, size=(33, 40))
    network = toy(9).eval()
    run = TrainedRun("run", network, "fine", "")
    samples = sampled(dataset, [0, 1, 2], 9, [0, 1])
    (both,), names = features.features_at([run], dataset, samples)
    assert names == {i: dataset[i].name for i in range(3)}
    for found, places in zip(both, samples, strict=True):
        for i in (0, len(found) // 2, -1):
            image = dataset[int(places.image[i])].image
            one = features.features_of(run, image, places.row[[i]], places.column[[i]])
            np.testing.assert_allclose(found[i], one[0], rtol=1e-4, atol=1e-5)


# ---- panels ------------------------------------------------------------------------------------


def test_the_window_is_where_models_differ_most():
    rng = np.random.default_rng(0)
    marks = rng.random((17, 23)) < 0.1
    marks[9:12, 15:19] = True
    top, left, height, width = panels.busiest_window(marks)
    assert (height, width) == (5, 7)
    counts = [(marks[y : y + 5, x : x + 7].sum(), -y, -x) for y in range(13) for x in range(17)]
    assert (-top, -left) == max(counts)[1:]


def test_differing_counts_labelled_pixels_only():
    truth = np.array([[0, 1, IGNORE, 1]], dtype=np.uint8)
    a, b = np.array([[0, 1, 0, 0]], dtype=np.uint8), np.array([[0, 0, 1, 0]], dtype=np.uint8)
    row = PanelRow("x", np.zeros((1, 4, 3), np.uint8), truth, {"a": a, "b": b})
    assert panels.differing(row).tolist() == [[False, True, False, False]]
    alone = PanelRow("x", row.image, truth, {"a": a})
    assert panels.differing(alone).tolist() == [[False, False, False, True]]


def test_panels_show_what_differs_most_and_what_is_named(runs, tmp_path):
    wanted = FigureRequest("3", runs[:2], tmp_path / "a", "scenes", limit=4, count=2)
    said = draw(wanted)
    rows = read(tmp_path / "a/figure3.csv")
    assert len(rows) == 4
    shares = {row["image"]: float(row["pixels that differ"]) for row in rows}
    best = sorted(shares, key=shares.get, reverse=True)[:2]  # of equals the first one
    assert {row["image"] for row in rows if row["shown"] == "1"} == set(best)
    assert all(name in said for name in best)
    name = min(shares, key=shares.get)
    draw(FigureRequest("9", runs[:1], tmp_path / "b", "scenes", limit=4, images=[name]))
    assert [row["image"] for row in read(tmp_path / "b/figure9.csv")] == [name]
    for path in (tmp_path / "a/figure3.png", tmp_path / "b/figure9.svg"):
        assert path.stat().st_size > 5000


# ---- flow --------------------------------------------------------------------------------------


def flowing(**model):
    return flow.traced(toy(5, **model), (64, 64))


def test_gradients_of_the_full_network_stop_where_the_paper_says():
    found = flowing(**GUIDED)
    into = [arrow for arrow in found.arrows if arrow.end == "upsampler"]
    assert [arrow.start for arrow in into] == ["backbone"] * 3 + ["encoder"]
    assert all(arrow.stopped for arrow in into)
    assert not any(a.stopped for a in found.arrows if a.end != "upsampler")
    assert [a.shape[1:] for a in into] == [(17, 17), (9, 9), (5, 5), (3, 3)]
    assert found.frozen == {"class tokens #2"}
    reached = {o: {k for k, yes in p.items() if yes} for o, p in found.trains.items()}
    assert reached["logits"] == {"upsampler", "axial attention"}
    assert reached["guide logits"] == {"backbone", "encoder", "class tokens"}


def test_gradients_flow_everywhere_without_guidance_and_without_stops():
    for model in ({}, GUIDED | {"guidance": NO_STOP_GRADIENT}):
        found = flowing(**model)
        assert not any(arrow.stopped for arrow in found.arrows)
        assert not found.frozen
        assert all(found.trains["logits"].values())


def test_the_stopped_auxiliary_fcn_is_drawn_stopped():
    stopped = [a for a in flowing(aux_fcn="stopped").arrows if a.stopped]
    assert [(a.start, a.end) for a in stopped] == [("backbone", "auxiliary encoder")]
    assert not [a for a in flowing(aux_fcn="joint").arrows if a.stopped]


def test_flow_of_a_recipe_is_drawn(tmp_path):
    said = draw(FigureRequest("flow", ["demo_hfgd"], tmp_path, size=(65, 97)))
    assert "guide logits trains backbone, encoder, class tokens" in said
    rows = read(tmp_path / "flow.csv")
    assert {"from": "image", "to": "backbone", "shape": "3×65×97", "gradient": "flows"} in rows
    assert (tmp_path / "flow.svg").read_text().startswith("<?xml")
    with pytest.raises(HfgdError, match="there is no recipe"):
        draw(FigureRequest("flow", ["nonsense"], tmp_path))


# ---- figure 1 ----------------------------------------------------------------------------------


def test_observation_scores_the_branches_that_the_recipes_score(tmp_path):
    fcn = saved(tmp_path, "section5.1/fcn", upsampler="none")
    torch.manual_seed(3)
    network = toy(9, aux_fcn="stopped")
    network.classes = CLASSES
    more = {"name": "section5.1/aux_fcn_stopped", "branch": "aux"}
    more |= {"classes": CLASSES.names, "palette": CLASSES.palette}
    network.config = network.config.model_copy(update=more)
    aux = str(network.save(tmp_path / "aux"))
    said = draw(FigureRequest("1", [fcn, aux], tmp_path / "out", "scenes", limit=3))
    rows = read(tmp_path / "out/figure1.csv")
    assert [row["branch"] for row in rows] == ["fine", "aux", "fine"]
    assert [row["paper mIoU"] for row in rows] == ["45.87", "40.04", ""]
    assert float(rows[1]["paper against the first"]) == pytest.approx(-5.83)
    change = float(rows[1]["mIoU"]) - float(rows[0]["mIoU"])
    assert float(rows[1]["against the first"]) == pytest.approx(change)
    assert float(rows[1]["low"]) <= change <= float(rows[1]["high"])
    assert "section5.1/aux_fcn_joint: not among the runs" in said


# ---- bad input ---------------------------------------------------------------------------------


def test_bad_input_is_one_sentence(runs, tmp_path, monkeypatch):
    def refused(name, given, **more):
        with pytest.raises(HfgdError) as error:
            draw(FigureRequest(name, given, tmp_path / "out", **more))
        return str(error.value)

    assert "no figure named '5'; known: 1, 3, 4" in refused("5", runs)
    assert all(name in refused("x", runs) for name in FIGURES)
    assert "takes a run or more" in refused("6", [])
    assert "takes 2 runs or more, not 1" in refused("7", runs[:1], data="scenes")
    assert "twice" in refused("6", [runs[0], runs[0]])
    assert "exported file" in refused("6", [str(tmp_path / "model.onnx")])
    assert "did you mean 'road'" in refused("4", runs, data="scenes", classes=["raod", "sky"])
    assert "two or more" in refused("4", runs, data="scenes", classes=["sky"])
    other = saved(tmp_path, "other", ClassSet.of(["sky", "mud"]))
    assert "('mud')" in refused("6", [runs[0], other])
    assert "('mud')" in refused("3", [runs[0], other], data="scenes")
    assert "figure 4 needs --data" in refused("4", runs)
    missing = refused("3", runs, data="scenes", limit=2, images=["nowhere"])
    assert "no image in 'scenes/val (2 of 100)' named 'nowhere'" in missing
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'hfgd[figures]'" in refused("4", runs, data="scenes")


@pytest.mark.parametrize("option", ["classes", "images"])
def test_an_option_of_another_figure_is_refused(runs, tmp_path, option):
    with pytest.raises(HfgdError, match=f"--{option} is for figure.* figure 6 takes none"):
        figure("6", [runs[0]], out=tmp_path / "out", **{option: "sky"})
    assert not (tmp_path / "out").exists()


def test_a_network_of_another_kind_has_no_class_tokens(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("hfgd.figures.common.load_model", lambda *_, **__: torch.nn.Linear(1, 1))
    with pytest.raises(HfgdError, match="without class tokens"):
        draw(FigureRequest("6", runs, tmp_path / "out"))


def test_kinds_are_the_papers_names():
    names = {
        "section5.1/fcn": "FCN",
        "table9/sfpn": "SemanticFPN",
        "table3/guidance": "SemanticFPN + HFG",
        "table3/full": "SemanticFPN + HFGM",
        "table3/aa": "SemanticFPN + AA",
        "table9/hfgd_os4": "HFGD",
        "table9/sa_car_d8": "sa_car + FCN",
    }
    assert {name: kind_of(find_recipe(name).model) for name in names} == names
    assert kind_of(ModelSpec(upsampler="fapn")) == "fapn"


@pytest.mark.slow
def test_figures_4_and_6_from_one_command_each(run, runs, tmp_path):
    code, _, err = run(
        "figure", "4", *runs, "--data", "scenes", "--limit", 3, "--most", 4, "--pixels", 20,
        "--samples", 3, "--out", tmp_path / "a",
    )  # fmt: skip
    assert code == 0, err
    rows, points = read(tmp_path / "a/figure4.csv"), read(tmp_path / "a/figure4-points.csv")
    assert [row["network"] for row in rows] == ["FCN", "SemanticFPN", "SemanticFPN + HFGM"]
    for row in rows:
        low, mean, high = (float(row[f"silhouette{s}"]) for s in (" low", "", " high"))
        assert low <= mean <= high
    assert len({row["class"] for row in points}) == 4
    places = [(p["image"], p["row"], p["column"]) for p in points]
    third = len(places) // 3
    assert places[:third] == places[third : 2 * third]  # the same pixels in every run
    code, _, err = run("figure", "6", *runs, "--out", tmp_path / "b")
    assert code == 0, err
    rows = read(tmp_path / "b/figure6.csv")
    matrix = read(tmp_path / "b/figure6-table3-none.csv")
    diagonal = [float(row[row["class"]]) for row in matrix]
    assert float(rows[1]["diagonal mean"]) == pytest.approx(np.mean(diagonal))
    for name in ("a/figure4.png", "a/figure4.svg", "b/figure6.png", "b/figure6.svg"):
        assert (tmp_path / name).stat().st_size > 5000
