"""The records of the studies: the page says what they say, and a run is packed whole."""

import dataclasses
import importlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from hfgd.errors import HfgdError
from hfgd.recipes import find_recipe, toy
from hfgd.recipes.spec import check_recipe
from hfgd.training.fit import fit

STUDY = Path(__file__).parents[1] / "studies" / "guidance"


@pytest.fixture
def records(monkeypatch):
    monkeypatch.syspath_prepend(STUDY)
    import records

    return records


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of runs with one in it, ``plain/table3-guidance/seed0``."""
    runs = tmp_path_factory.mktemp("runs")
    recipe = toy(find_recipe("table3/guidance")).with_(**{"train.validate_every": 2})
    fit(recipe, runs / "plain/table3-guidance/seed0")
    return runs


def variant(finished, runs, run, /, **changes):
    """A second folder of runs: the finished one under another recipe."""
    folder = shutil.copytree(finished / "plain/table3-guidance/seed0", runs / run)
    recipe = check_recipe(yaml.safe_load((folder / "recipe.yaml").read_text()), "")
    (folder / "recipe.yaml").write_text(recipe.with_(**changes).yaml())
    return runs


@pytest.fixture(params=["camvid_guidance", "nyuv2_guidance", "small_recipes"])
def study(request, records):
    return importlib.import_module(request.param)


def test_the_page_has_the_tables_of_its_records(study, records):
    from study_page import put

    text = study.PAGE.read_text(encoding="utf-8")
    runs = records.read(study.STUDY)
    assert put(study.PAGE, study.tables(runs)) == text
    worse = {**runs[0].cells, "mIoU": str(float(runs[0]["mIoU"]) - 0.01)}
    changed = [dataclasses.replace(runs[0], cells=worse), *runs[1:]]
    assert put(study.PAGE, study.tables(changed)) != text


def test_every_recorded_recipe_is_one(study, records):
    for run in records.read(study.STUDY):
        recipe = check_recipe(records.recipe(study.STUDY, run["run"]), run["run"])
        assert (recipe.name, recipe.train.seed) == (run["row"], run.seed)
        assert recipe.optim.lr == float(run["rate"])
        assert recipe.model.guidance.share_tokens == (run.guide is not None)


def test_a_run_is_packed_whole(records, finished, tmp_path, run):
    """Against its own files, read once more in the plainest way."""
    folder = shutil.copytree(finished, tmp_path / "runs") / "plain/table3-guidance/seed0"
    how = ("--branch", "guide", "--workers", "0", "--limit", "2", "--out", folder / "guide")
    assert run("eval", folder, "--data", "scenes", *how)[0] == 0
    (tmp_path / "runs/unfinished").mkdir()
    shutil.copy(folder / "recipe.yaml", tmp_path / "runs/unfinished")
    assert records.add("toys", tmp_path / "runs", tmp_path) == ["plain/table3-guidance/seed0"]
    (packed,) = records.read("toys", tmp_path)
    report, guide = (
        json.loads((folder / name).read_text()) for name in ("report.json", "guide/report.json")
    )
    assert (packed.miou, packed.guide) == (100 * report["mIoU"], 100 * guide["mIoU"])
    for branch, scores in (("fine", report), ("guide", guide)):
        known = {c["name"]: 100 * c["IoU"] for c in scores["classes"] if c["IoU"] is not None}
        assert packed.classes[branch] == known
    head, *lines = (folder / "logs/val.csv").read_text().splitlines()
    place = head.split(",").index("mIoU")
    assert list(packed.curve.items()) == [
        (int(line.split(",")[0]), 100 * float(line.split(",")[place])) for line in lines
    ]
    assert records.recipe("toys", packed["run"], tmp_path) == yaml.safe_load(
        (folder / "recipe.yaml").read_text()
    )


def test_what_differs_is_said_and_paths_are_not(records, finished, tmp_path):
    changes = {
        "loss.guide": 0.4,
        "train.seed": 2,
        "optim.lr": 1e-5,
        "model.backbone.pretrained": "secret/place/weights.safetensors",
        "augment.crop": [32, 48],
    }
    records.add("toys", finished, tmp_path)
    other = variant(finished, tmp_path / "runs", "guide0.4/table3-guidance/seed2", **changes)
    records.add("toys", other, tmp_path)
    records.add("others", other, tmp_path)
    row = variant(finished, tmp_path / "rows", "x", **{"name": "row", "loss.guide": 0.7})
    records.add("toys", row, tmp_path)
    assert [run["changes"] for run in records.read("toys", tmp_path) if run["row"] == "row"] == [""]
    assert records.recipe("toys", "x", tmp_path)["loss"]["guide"] == 0.7
    changed, plain, _ = sorted(records.read("toys", tmp_path), key=lambda run: run["run"])
    assert (plain["changes"], changed["changes"]) == ("", "loss.guide=0.4")
    recipe = records.recipe("toys", changed["run"], tmp_path)
    assert recipe["loss"]["guide"] == 0.4
    assert recipe["optim"]["lr"] == 1e-5
    assert recipe["augment"]["crop"] == [32, 48]
    assert recipe["model"]["backbone"]["pretrained"] == "weights.safetensors"
    assert records.recipe("others", changed["run"], tmp_path) == recipe
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert len(files) == 4
    assert not any("secret" in path.read_text() for path in files)
    before = {path: path.read_bytes() for path in files}
    records.add("toys", other, tmp_path)  # once more changes nothing
    assert before == {path: path.read_bytes() for path in files}


def test_what_stands_there_stays_as_it_is(records, finished, tmp_path):
    """A run with more losses, and before the others by name, only adds lines and columns."""
    records.add("toys", finished, tmp_path)
    before = (tmp_path / "curves.csv").read_text().splitlines()
    other = variant(finished, tmp_path / "runs", "a")
    curves = other / "a/logs/train.csv"
    head, *lines = curves.read_text().splitlines()
    places = head.replace("lr,", "lr,more,"), *(line.replace(",", ",7,", 1) for line in lines)
    curves.write_text("\n".join(places) + "\n")
    records.add("toys", other, tmp_path)
    after = (tmp_path / "curves.csv").read_text().splitlines()
    assert after[0] == f"{before[0]},more"
    assert after[-len(before) + 1 :] == [f"{line}," for line in before[1:]]


@pytest.mark.parametrize("writes", range(4))
def test_a_stop_on_the_way_leaves_the_records_of_before(
    records, finished, tmp_path, monkeypatch, writes
):
    records.add("toys", finished, tmp_path)
    before = records.read("toys", tmp_path)
    other = variant(finished, tmp_path / "runs", "guide0.4", **{"loss.guide": 0.4})
    real, left = records.write_text, writes

    def stopped(path, text):
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        real(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(records, "write_text", stopped)
        with pytest.raises(KeyboardInterrupt):
            records.add("toys", other, tmp_path)
    assert records.read("toys", tmp_path) == before
    records.add("toys", other, tmp_path)
    assert len(records.read("toys", tmp_path)) == 2


def test_several_may_pack_at_once(records, finished, tmp_path):
    each = [variant(finished, tmp_path / f"runs{i}", f"run{i}") for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda runs: records.add("toys", runs, tmp_path), each))
    assert {run["run"] for run in records.read("toys", tmp_path)} == {f"run{i}" for i in range(8)}


def test_what_is_not_there_is_said(records, tmp_path):
    with pytest.raises(HfgdError, match="no finished run below"):
        records.add("toys", tmp_path, tmp_path)
    with pytest.raises(HfgdError, match="no run of the study 'toys'"):
        records.read("toys", tmp_path)
    with pytest.raises(HfgdError, match="no run 'x' of the study 'toys'"):
        records.recipe("toys", "x", tmp_path)


def test_guidance_is_set_beside_its_own_baseline(records):
    """The pairs of the rule, against those that the folders' names make; the page has its table."""
    import handicap

    runs = [run for study in handicap.MARKERS for run in records.read(study)]
    by_name = {(run["study"], run["run"]): run for run in runs}
    beside = {"table3-guidance": "table3-none", "table3-full": "table3-aa"}
    expected = set()
    for (study, name), guided in by_name.items():
        *group, row, seed = name.split("/")
        other = by_name.get((study, "/".join([*group, beside.get(row, ""), seed])))
        if other is not None and "stop_" not in guided["changes"]:
            gain = 100 * (float(guided["mIoU"]) - float(other["mIoU"]))
            lead = 100 * (float(guided["guide mIoU"]) - float(other["mIoU"]))
            expected.add((study, name, round(lead, 6), round(gain, 6)))
    found = handicap.pairs(runs)
    assert {
        (pair.guided["study"], pair.guided["run"], *(round(each, 6) for each in pair.run))
        for pair in found
    } == expected
    assert f"<!-- table: rule -->\n{handicap.rule(found)}\n" in handicap.PAGE.read_text("utf-8")
