"""The command line as a user meets it: help, results, and one sentence for each mistake."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import TOYS
from hfgd.checkpoint import save_model
from hfgd.data.classes import ClassSet
from hfgd.model import ModelSpec
from hfgd.model.build import build
from hfgd.recipes.spec import DataSpec, Recipe


@pytest.fixture
def model(tmp_path):
    """A saved model of the tiny folder's classes."""
    recipe = Recipe(name="toy", model=ModelSpec(backbone=TOYS["test_resnet"], width=16))
    save_model(build(recipe.model, ClassSet.of(["a", "b", "c"])), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["train", "eval", "predict", "data", "demo", "recipes"]),
        (["train"], ["--data", "--set", "--resume", "--out", "--data-yaml"]),
        (["eval"], ["--data", "--split", "--out"]),
        (["predict"], ["--out", "--opacity"]),
        (["data"], ["check", "export"]),
        (["data", "check"], ["--data-yaml"]),
        (["data", "export"], ["--out", "--seed"]),
        (["demo"], ["--iterations", "--pretrained"]),
    ],
)
def test_help_reads_well(run, words, expected):
    code, out, _ = run(*words, "--help")
    assert code == 0
    for word in expected:
        assert word in out


def test_version(run):
    from hfgd import __version__

    assert run("--version") == (0, f"{__version__}\n", "")


def test_help_does_not_wait_for_torch():
    command = "import sys; sys.argv = ['hfgd', '--version']; import hfgd.cli as c\ntry: c.main()\n"
    command += "except SystemExit: pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", command], check=True)


def test_recipes_are_listed(run):
    code, out, _ = run("recipes")
    assert code == 0
    assert "hfgd_resnet50" in out


def test_eval_prints_a_table_and_writes_reports(run, model, folder, tmp_path):
    code, out, err = run("eval", model, "--data", folder, "--out", tmp_path / "r", "--workers", 0)
    assert code == 0, err
    assert "mIoU" in out
    assert "label pixels" in out
    names = {path.name for path in (tmp_path / "r").iterdir()}
    assert names == {
        "report.json", "report.html", "report.md", "confusion.png", "iou_per_class.png", "panels.png",
        "worst.png",
    }  # fmt: skip
    assert run("val", model, "--data", folder, "--out", tmp_path / "r2")[0] == 0  # the alias


def test_predict_keeps_folders_orientation_and_goes_on(run, model, tmp_path):
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    picture = Image.fromarray(np.zeros((40, 60, 3), dtype=np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(source / "deep" / "turned.jpg", exif=exif)
    picture.save(source / "plain.png")
    picture.save(source / "plain.jpg")
    (source / "broken.jpg").write_bytes(b"\xff\xd8 not much of a JPEG")
    code, out, err = run("predict", model, source, "--out", tmp_path / "out")
    assert code == 1
    assert "3 images labelled" in out
    assert "1 could not be labelled" in err
    assert "broken.jpg" in err
    written = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")}
    assert written == {
        f"{kind}/{name}"
        for kind in ("labels", "overlays")
        for name in ("deep/turned.png", "plain_png.png", "plain_jpg.png")
    }
    with Image.open(tmp_path / "out/labels/deep/turned.png") as label:
        assert label.size == (40, 60)  # upright
        assert label.mode == "P"


def test_check_and_export(run, tmp_path):
    code, out, _ = run(
        "data", "export", "scenes", "--out", tmp_path / "s", "--train", 3, "--val", 2
    )
    assert code == 0
    assert "hfgd data check" in out
    code, out, _ = run("data", "check", tmp_path / "s")
    assert code == 0
    assert "nothing here would break" in out
    assert "building" in out
    label = next((tmp_path / "s/labels/train").iterdir())
    Image.fromarray(np.full((192, 256), 99, dtype=np.uint8)).save(label)
    code, out, _ = run("data", "check", tmp_path / "s")
    assert code == 1
    assert f"{label} holds ids 99" in out.replace("\n", "")


MISTAKES = {
    "unknown recipe": (["train", "hfgd_resnet", "--data", "scenes"], 2, "did you mean"),
    "no recipe": (["train", "--data", "scenes"], 2, "train needs a recipe"),
    "no data": (["train", "hfgd_mobilenetv2"], 2, "needs data: give --data FOLDER"),
    "no such data": (["train", "demo_sfpn", "--data", "nowhere"], 2, "no data folder 'nowhere'"),
    "unknown key": (
        ["train", "demo_sfpn", "--set", "optim.learning_rate=1"], 2, "no key named 'learning_rate'",
    ),
    "wrong type": (["train", "demo_sfpn", "--set", "optim.lr=fast"], 2, "optim.lr: Input should be"),
    "no equals sign": (["train", "demo_sfpn", "--set", "optim.lr"], 2, "--set takes key=value"),
    "resume what": (["train", "--resume"], 2, "--resume needs --out"),
    "no recipe file": (["train", "my.yaml"], 2, "no recipe file 'my.yaml'"),
    "no model": (["eval", "nowhere", "--data", "scenes"], 2, "there is no model 'nowhere'"),
    "no image": (["predict", "{model}", "nothing.jpg", "--out", "x"], 2, "'nothing.jpg'"),
    "no folder": (["data", "check", "nowhere"], 2, "nowhere"),
    "no model, no data": (["eval", "nowhere"], 2, "there is no model 'nowhere'"),
    "a model without data": (["eval", "{model}"], 2, "eval needs --data"),
    "other classes": (["eval", "{model}", "--data", "scenes"], 2, "the model knows 3 classes"),
    "no such split": (
        ["eval", "{model}", "--data", "{folder}", "--split", "test"], 2, "no images of the split",
    ),
    "no such device": (
        ["eval", "{model}", "--data", "{folder}", "--device", "tpu9"], 2, "cannot be used here",
    ),
    "usage": (["train", "--colour"], 2, "No such option"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence_and_its_exit_code(
    run, model, folder, tmp_path, monkeypatch, mistake
):
    monkeypatch.chdir(tmp_path)
    words, code, expected = MISTAKES[mistake]
    filled = [word.format(model=model, folder=folder) for word in words]
    got, _, err = run(*filled)
    assert got == code
    assert expected in err
    assert "Traceback" not in err


def test_a_truncated_model_is_named(run, model, folder):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    code, _, err = run("eval", model, "--data", folder)
    assert code == 2
    assert "model.safetensors' is truncated" in err


def test_a_non_finite_loss_has_its_exit_code(run, folder, tmp_path):
    words = ["train", "table3/full", "--toy", "--data", folder, "--out", tmp_path / "run"]
    code, _, err = run(*words, "--set", "optim.lr=1e30", "--set", "train.iterations=50")
    assert code == 3
    assert "the loss is not finite at iteration" in err
    assert "Traceback" not in err


def test_recipe_files_may_build_on_a_named_one(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "base: demo_sfpn\n"
        "model: {backbone: {name: test_resnet}, width: 16}\n"
        "augment: {crop: [33, 33]}\n"
        "train: {iterations: 2, batch_size: 2, workers: 0, validate_every: 2}\n"
    )
    code, out, err = run("train", "mine.yaml", "--data", folder, "--set", "train.panels=1")
    assert code == 0, err
    assert (tmp_path / "runs/mine/last/model.safetensors").is_file()
    assert "hfgd predict runs/mine" in out
    (tmp_path / "wrong.yaml").write_text("base: demo_sfpn\nmodle: {}\n")
    code, _, err = run("train", "wrong.yaml", "--data", folder)
    assert code == 2
    assert "wrong.yaml: modle: there is no key named 'modle'; did you mean 'model'?" in err


def test_demo_trains_scores_and_shows_both(run, tmp_path, monkeypatch):
    from hfgd import demo

    def small(name, iterations, pretrained):
        return make(name, iterations, pretrained).with_(
            **{
                "model.backbone.name": "test_resnet",
                "model.width": 16,
                "augment.crop": [33, 33],
                "train.batch_size": 2,
                "train.panels": 1,
            }
        )

    make = demo._recipe
    monkeypatch.setattr(demo, "_recipe", small)
    monkeypatch.setattr("hfgd.data.scenes.SPLITS", {"train": (0, 4), "val": (1_000_000, 2)})
    code, out, err = run("demo", "--out", tmp_path / "demo", "--iterations", 2)
    assert code == 0, err
    for word in ("SemanticFPN", "HFGD", "mIoU", "pole", "is ahead after 2", "demo.png", "next:"):
        assert word in out
    assert (tmp_path / "demo/demo.png").is_file()
    again, out_again, _ = run("demo", "--out", tmp_path / "demo", "--iterations", 2)
    assert again == 0
    assert "mIoU" in out_again


def test_data_info(run, tmp_path):
    code, out, _ = run("data", "info")
    assert code == 0
    assert "cityscapes: Cityscapes, 19 classes" in out
    assert "leftImg8bit/{split}/NAME_leftImg8bit.png" in out
    for split in ("train", "val"):
        for kind in (split, f"{split}annot"):
            (tmp_path / kind).mkdir()
        Image.new("RGB", (40, 30)).save(tmp_path / split / "a.png")
        Image.new("L", (40, 30), 3).save(tmp_path / f"{split}annot" / "a.png")
    words = ["data", "info", "camvid", "--data", tmp_path, "--out", tmp_path / "sheet.png"]
    code, out, err = run(*words)
    assert code == 0, err
    assert "train: 1 pair, expected 367" in out
    assert "road 100.000" in " ".join(out.split())
    assert (tmp_path / "sheet.png").is_file()
    code, _, err = run("data", "info", "camvids")
    assert code == 2
    assert "did you mean 'camvid'" in err


def test_protocols_groups_and_limit(run, model, folder, tmp_path):
    words = ["eval", model, "--data", folder, "--workers", 0, "--limit", 1]
    words += ["--protocol", "mf", "--group", "both=a,b", "--boundary", 0]
    code, out, err = run(*words, "--out", tmp_path / "r")
    assert code == 0, err
    assert "mf: whole image, scales 0.5" in out
    report = (tmp_path / "r/report.md").read_text()
    assert "- both (a, b): IoU" in report
    assert "BIoU" not in report
    assert run("eval", model, "--data", folder, "--workers", 0, "--out", tmp_path / "b")[0] == 0
    assert "boundary IoU, 2 % of the image diagonal" in (tmp_path / "b/report.md").read_text()
    assert run(*words, "--group", "x=a,z")[2].count("no class named 'z'") == 1
    assert "no protocol named 'mm'" in run(*words[:6], "--protocol", "mm")[2]


def test_a_run_is_scored_on_its_own_data(run, model, folder, tmp_path):
    recipe = Recipe(
        name="toy",
        model=ModelSpec(backbone=TOYS["test_resnet"], width=16),
        data=DataSpec(location=str(folder), val_split="train"),
    )
    (model / "recipe.yaml").write_text(recipe.yaml())
    for split, images in ((), 3), (("--split", "val"), 2):
        out = tmp_path / f"r{images}"
        code, _, err = run("eval", model, *split, "--workers", 0, "--out", out)
        assert code == 0, err
        assert json.loads((out / "report.json").read_text())["images"] == images


def test_compare_two_models(run, model, folder, tmp_path):
    recipe = Recipe(name="other", model=ModelSpec(backbone=TOYS["test_convnext"], width=16))
    other = tmp_path / "other"
    save_model(build(recipe.model, ClassSet.of(["a", "b", "c"])), other)
    words = ["compare", model, other, "--data", folder, "--out", tmp_path / "c"]
    code, out, err = run(*words)
    assert code == 0, err
    assert "| mIoU |" in out
    assert {p.name for p in (tmp_path / "c").iterdir()} == {
        "compare.md", "report.html", "compare.json", "compare.png"
    }  # fmt: skip
    assert run("compare", model, "--data", folder)[0] == 2
    assert "compare needs --data" in run("compare", model, other)[2]


def test_server_files_hold_the_servers_ids(run, tmp_path):
    from zipfile import ZipFile

    from hfgd.data.known.cityscapes import CITYSCAPES, LABEL_IDS

    recipe = Recipe(name="city", model=ModelSpec(backbone=TOYS["test_resnet"], width=16))
    save_model(build(recipe.model, CITYSCAPES.classes), tmp_path / "city")
    (tmp_path / "in/berlin").mkdir(parents=True)
    name = "berlin_000000_000019_leftImg8bit.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in/berlin" / name)
    words = ["predict", tmp_path / "city", tmp_path / "in", "--out", tmp_path / "out"]
    assert run(*words, "--server", "cityscapes")[0] == 0
    trained = np.array(Image.open(tmp_path / "out/labels/berlin" / name))
    sent = np.array(Image.open(tmp_path / "out/submission" / name))
    assert np.array_equal(sent, np.array(LABEL_IDS)[trained])
    with ZipFile(tmp_path / "out/submission.zip") as archive:
        assert archive.namelist() == [name]
    code, _, err = run(*words, "--server", "ade20k")
    assert code == 2
    assert "150 classes, and the model knows 19" in err
