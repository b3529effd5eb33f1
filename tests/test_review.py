"""Reviews against plain computations: scores, regions, lists, folds, and what to label next."""

import csv
import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from conftest import TOYS, recipe, toy
from hfgd.checkpoint import save_model
from hfgd.data.classes import IGNORE, ClassSet
from hfgd.data.formats.regions import decode_mask
from hfgd.errors import HfgdError
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.model import ModelSpec
from hfgd.model.build import build
from hfgd.review import lists
from hfgd.review import pool as folds
from hfgd.review import select as unlabelled
from hfgd.review.jsonl import JsonRows
from hfgd.review.pool import ReviewSet
from hfgd.review.quality import Found, QualityTerms, Sums, SuspectRegion, find_regions, runs_of

CLASSES = ClassSet.of(["a", "b", "c"])


def test_scores_are_those_of_a_plain_computation():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 3, (20, 30, 3))
    label = rng.choice([0, 1, 2, IGNORE], (20, 30)).astype(np.uint8)
    terms = QualityTerms(sure=0.8, temperature=1.5)
    sums = Sums(torch.from_numpy(label), terms)
    strips = [
        sums.add(slice(i, i + 6), torch.tensor(scores[i : i + 6], dtype=torch.float32))
        for i in range(0, 20, 6)
    ]
    sure_of, confidence = torch.cat(strips).numpy().transpose(2, 0, 1)
    found = sums.found(sure_of, confidence, CLASSES)

    valid = label != IGNORE
    log_p = log_softmax(scores[valid] / 1.5, axis=-1)[range(valid.sum()), label[valid]]
    p = np.exp(log_p)
    assert found.quality == pytest.approx(p @ softmax((1 - p) / 0.1), rel=1e-5)
    assert found.loss == pytest.approx(-log_p.mean(), rel=1e-5)
    assert found.mean == pytest.approx(p.mean(), rel=1e-5)
    whole = softmax(scores / 1.5, axis=-1)
    differs = valid & (whole.argmax(-1) != label) & (whole.max(-1) >= 0.8)
    np.testing.assert_array_equal(sure_of, np.where(differs, whole.argmax(-1), IGNORE))
    np.testing.assert_allclose(confidence, 255 * whole.max(-1), atol=0.51)


def test_an_image_without_labels_has_no_quality():
    sums = Sums(torch.full((4, 4), IGNORE, dtype=torch.uint8), QualityTerms())
    maps = sums.add(slice(0, 4), torch.randn(4, 4, 3)).numpy()
    found = sums.found(maps[..., 0], maps[..., 1], CLASSES)
    assert found == Found(None, None, None, 0.0, ())


def scene():
    """A map of what the model is sure of: a square, a cross that touches it, a line, a speck."""
    sure_of = np.full((30, 40), IGNORE, dtype=np.uint8)
    sure_of[2:8, 3:9] = 1
    sure_of[8, 9] = 1  # touches the square by a corner: of it
    sure_of[2:8, 9:15] = 2  # another class: another region
    sure_of[20, 2:38] = 1  # long, and one pixel wide
    sure_of[26:29, 30:33] = 1  # small
    label = np.zeros((30, 40), dtype=np.uint8)
    label[2:4] = 2
    return sure_of, label


def test_regions_are_connected_thick_and_large():
    sure_of, label = scene()
    confidence = np.full_like(label, 204)
    confidence[:, 9:15] = 255
    found = find_regions(sure_of, confidence, label, CLASSES, smallest=10)
    assert [(r.suggested, r.labelled, r.pixels, r.box) for r in found] == [
        ("c", "a", 36, (9, 2, 6, 6)),
        ("b", "a", 37, (3, 2, 7, 7)),
    ]
    assert found[0].confidence == 1.0
    assert found[1].confidence == pytest.approx((36 * 204 + 255) / 37 / 255)
    mask = np.zeros((30, 40), dtype=bool)
    mask[2:9, 3:10] = found[1].patch()
    np.testing.assert_array_equal(mask[:10], (sure_of == 1)[:10])
    assert len(find_regions(sure_of, confidence, label, CLASSES, smallest=9)) == 3


def judged(regions, size=(30, 40), key="val/x", quality=0.5):
    return lists.Judged(key, f"images/{key}.png", size, 1, Found(quality, 1.0, 0.7, 0.1, regions))


def test_lists_hold_the_regions_where_they_are(tmp_path):
    rng = np.random.default_rng(0)
    masks, regions = [], []
    boxes = [(0, 0, 40, 30), (39, 0, 1, 30), (5, 3, 8, 9), (30, 20, 10, 10), (0, 29, 40, 1)]
    for left, top, width, height in boxes:
        patch = rng.uniform(size=(height, width)) < 0.6
        mask = np.zeros((30, 40), dtype=bool)
        mask[top : top + height, left : left + width] = patch
        masks.append(mask)
        runs, box = tuple(runs_of(patch.ravel())), (left, top, width, height)
        regions.append(SuspectRegion("a", "c", int(patch.sum()), 0.9, box, runs))
    lists.write_lists([judged(tuple(regions))], CLASSES, tmp_path)

    coco = json.loads((tmp_path / "coco.json").read_text())
    names = {c["id"]: c["name"] for c in coco["categories"]}
    for mask, annotation in zip(masks, coco["annotations"], strict=True):
        np.testing.assert_array_equal(decode_mask(annotation["segmentation"]), mask)
        assert annotation["area"] == mask.sum()
        assert names[annotation["category_id"]] == "c"
    image = ElementTree.parse(tmp_path / "cvat.xml").getroot().find("image")
    for mask, element in zip(masks, image.iter("mask"), strict=True):
        runs = [int(run) for run in element.get("rle").split(",")]
        keys = ("left", "top", "width", "height")
        left, top, width, height = (int(element.get(k)) for k in keys)
        patch = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
        np.testing.assert_array_equal(mask[top : top + height, left : left + width], patch)
    (task,) = json.loads((tmp_path / "labelstudio.json").read_text())
    for box, result in zip(boxes, task["predictions"][0]["result"], strict=True):
        value = result["value"]
        shares = [value[k] / 100 for k in ("x", "y", "width", "height")]
        assert np.allclose(np.array(shares) * (40, 30, 40, 30), box)
        assert value["rectanglelabels"] == ["c"]


def test_rows_go_on_after_a_cut(tmp_path):
    rows = JsonRows(tmp_path / "rows")
    for key in "ab":
        rows.add({"key": key, "x": 1})
    with (tmp_path / "rows").open("a") as file:
        file.write('{"key": "c", "x"')  # a kill
    rows = JsonRows(tmp_path / "rows")
    assert rows.done == {"a", "b"}
    rows.add({"key": "c", "x": 2})
    assert [row["x"] for row in rows] == [1, 1, 2]
    assert [row["x"] for row in JsonRows(tmp_path / "rows")] == [1, 1, 2]


def test_folds_are_even_and_keep_groups_whole():
    names = [f"{video}_{i}" for video, count in zip("abcdef", (9, 7, 5, 4, 3, 2), strict=True)
             for i in range(count)]  # fmt: skip
    plain = folds.deal(names, 4)
    assert sorted(np.bincount(plain)) == [7, 7, 8, 8]
    assert plain == folds.deal(names, 4)
    grouped = folds.deal(names, 3, "^.")
    for video in "abcdef":
        assert len({f for n, f in zip(names, grouped, strict=True) if n[0] == video}) == 1
    assert np.bincount(grouped).tolist() == [11, 10, 9]
    with pytest.raises(HfgdError, match=r"groups by .*, and there are 6"):
        folds.deal(names, 7, "^.")


def test_the_furthest_image_is_next():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 5)).astype(np.float32)
    near = rng.normal(size=(3, 5)).astype(np.float32)
    chosen = unlabelled.furthest(list(x), list(near), 6)
    scale = np.concatenate([x, near]).std(0) + 1e-6
    points, centres = x / scale, list(near / scale)
    for place, distance in chosen:
        nearest = [min(np.linalg.norm(point - c) for c in centres) for point in points]
        assert distance == pytest.approx(max(nearest), rel=1e-5)
        assert nearest[place] == pytest.approx(max(nearest), rel=1e-5)
        centres.append(points[place])
    assert len({place for place, _ in unlabelled.furthest(list(x), [], 100)}) == 40
    assert unlabelled.furthest(list(x), [], 3)[0][1] is None


def test_entropy_margin_and_feature_of_an_image():
    network = toy(3).eval()
    labeller = NetworkLabeller(network)
    image = torch.randint(0, 256, (3, 41, 57), dtype=torch.uint8)
    row = unlabelled.look(labeller, image, with_feature=True)
    scores = labeller.reduced(image, lambda rows, scores: scores.clone()).double().numpy()
    p = softmax(scores, axis=-1)
    assert row["entropy"] == pytest.approx((-(p * np.log(p)).sum(-1) / np.log(3)).mean(), abs=1e-6)
    two = np.sort(p, axis=-1)[..., -2:]
    assert row["margin"] == pytest.approx((1 - two[..., 1] + two[..., 0]).mean(), abs=1e-6)
    with torch.inference_mode():
        *_, top = network.backbone(image[None].float() / 255)
        high = network.encoder(top)[0]
    expected = high.mean((0, 2, 3)).numpy()
    np.testing.assert_allclose(unlabelled._vector(row), expected, rtol=2e-3, atol=1e-3)


@pytest.fixture
def model(tmp_path):
    spec = ModelSpec(backbone=TOYS["test_resnet"], width=16)
    save_model(build(spec, CLASSES), tmp_path / "model")
    return tmp_path / "model"


def test_a_review_is_written_and_goes_on(run, model, folder, tmp_path):
    words = ("--data", folder, "--workers", 0, "--out", tmp_path / "r", "--sure", 0.1)
    code, said, err = run("review", model, *words)
    assert code == 0, err
    assert "5 labels judged" in said
    with (tmp_path / "r/review.csv").open() as file:
        table = list(csv.DictReader(file))
    best = {row["image"]: float(row["quality"]) for row in table}
    assert list(best.values()) == sorted(best.values())
    assert best.keys() == {*(f"train/train{i}" for i in range(3)), "val/val0", "val/val1"}
    page = (tmp_path / "r/review.html").read_text()
    assert all(f'"name": "{key}"' in page for key in best)
    rows = (tmp_path / "r/labels.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "r/labels.jsonl").write_text("".join(rows[:3]) + rows[3][:20])
    assert run("review", model, *words)[0] == 0
    assert (tmp_path / "r/labels.jsonl").read_text() == "".join(rows)
    code, _, err = run("review", model, *words[:-1], 0.2)
    assert code == 2
    assert "another sure (0.1, and now 0.2)" in err


def test_what_to_label_next(run, model, folder, tmp_path):
    images = folder / "images"
    (images / "broken.jpg").write_bytes(b"no picture")
    for by in ("entropy", "margin", "random"):
        out = tmp_path / by
        code, _, err = run("review", model, "--unlabelled", images, "--next", 2, "--by", by,
                           "--out", out)  # fmt: skip
        assert code == (0 if by == "random" else 1)  # random opens none
        assert ("broken.jpg" in err) == (by != "random")
        assert len((out / "next.txt").read_text().splitlines()) == 2
        assert len(json.loads((out / "lists/labelstudio.json").read_text())) == 2
        assert (out / "next.html").read_text().count('"name": ') in (1, 2)
    rows = [json.loads(line) for line in (tmp_path / "margin/images.jsonl").open()]
    best = sorted(rows, key=lambda row: -row["margin"])[:2]
    with (tmp_path / "margin/next.csv").open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == [row["key"] for row in best]
    (images / "broken.jpg").unlink()
    words = ("--unlabelled", images / "train", "--next", 2, "--by", "diverse")
    code, said, err = run("review", model, *words, "--data", folder, "--split", "val", "--out",
                          tmp_path / "d")  # fmt: skip
    assert code == 0, err
    assert "2 images chosen by diverse" in said
    keys = [json.loads(line)["key"] for line in (tmp_path / "d/images.jsonl").open()]
    assert sum(key.startswith("labelled:val/") for key in keys) == 2


MISTAKES = {
    "nothing to do": (["--out", "x"], "needs --data"),
    "folds' words": (["--data", "{folder}", "--groups", "a", "--out", "x"], "give --folds too"),
    "no run": (["--data", "{folder}", "--folds", 2, "--out", "x"], "has no recipe.yaml"),
    "too many": (["--data", "{folder}", "--folds", 9, "--out", "x"], "there are 5"),
    "no folder": (["--unlabelled", "nowhere", "--out", "x"], "no folder 'nowhere'"),
    "two kinds": (
        ["--unlabelled", "{folder}", "--data", "{folder}", "--out", "x"], "choose --by diverse",
    ),
    "no such data": (["--data", "nowhere", "--out", "x"], "no data folder 'nowhere'"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence(run, model, folder, tmp_path, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    words, expected = MISTAKES[mistake]
    code, _, err = run("review", model, *(str(word).format(folder=folder) for word in words))
    assert code == 2
    assert expected in err
    assert err.startswith("hfgd: ")
    assert not (tmp_path / "x/labels.jsonl").exists()


@pytest.mark.slow
def test_no_fold_is_judged_by_who_saw_it(run, folder, tmp_path, monkeypatch):
    from hfgd.training.fit import fit

    fit(recipe(folder), tmp_path / "run")
    trained, cut = {}, []

    def watched(recipe, out, resume, data, code):
        names = [data[0][i].name for i in range(len(data[0]))]
        trained[out.name] = set(names)
        if len(trained) == 2 and not cut:
            cut.append(out.name)
            raise HfgdError("a power cut")
        return fit(recipe, out, resume, data=data, code=code)

    monkeypatch.setattr(folds, "fit", watched)
    words = ("--data", folder, "--folds", 2, "--workers", 0, "--out", tmp_path / "r",
             "--set", "train.iterations=4")  # fmt: skip
    code, _, err = run("review", tmp_path / "run", *words)
    assert code == 2
    assert "a power cut" in err
    first = dict(trained)
    trained.clear()
    code, _, err = run("review", tmp_path / "run", *words)
    assert code == 0, err
    assert list(trained) == ["2"]  # the first one is done
    assert first.keys() == {"1", "2"}
    trained |= {"1": first["1"]}
    rows = [json.loads(line) for line in (tmp_path / "r/labels.jsonl").open()]
    assert len(rows) == 5
    pool = ReviewSet.open(str(folder), (), None)
    assert {row["key"] for row in rows} == set(pool.keys)
    for row in rows:
        assert row["key"].split("/")[1] not in trained[str(row["fold"] + 1)]
    # a fold cannot be gone on with by hand, which would be on all the images
    code, _, err = run("train", "--resume", "--out", tmp_path / "r/folds/1")
    assert code == 2
    assert "needs data" in err
