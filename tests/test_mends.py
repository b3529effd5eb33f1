"""Names of files: nested, with a dot, two of one name; JSON that any reader takes; whole files."""

import json
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import TOYS
from hfgd.checkpoint import save_model
from hfgd.data.classes import ClassSet
from hfgd.data.known.cityscapes import CITYSCAPES
from hfgd.data.open import open_dataset
from hfgd.data.prediction import Prediction
from hfgd.files import write_text, write_whole
from hfgd.model import ModelSpec
from hfgd.model.build import build
from hfgd.predict import find_images
from hfgd.recipes.spec import Recipe

ABC = ClassSet.of(["a", "b", "c"])


def saved(path, classes, backbone="test_resnet"):
    recipe = Recipe(name="toy", model=ModelSpec(backbone=TOYS[backbone], width=16))
    save_model(build(recipe.model, classes), path)
    return path


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 60, 3), 90, dtype=np.uint8)).save(path, format="PNG")
    return path


def test_nested_names_are_exported(run, folder, tmp_path):
    for kind in ("images", "labels"):
        (folder / kind / "train/city").mkdir()
        (folder / kind / "train/train0.png").rename(folder / kind / "train/city/frame1.png")
    code, _, err = run("data", "export", folder, "--out", tmp_path / "out")
    assert code == 0, err
    before, after = (open_dataset(str(place), "train") for place in (folder, tmp_path / "out"))
    assert [s.name for s in after] == ["city/frame1", "train1", "train2"]
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.label, b.label)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("frame_0.5", "frame_0.5.png"),
        ("frame_0.5.png", "frame_0.5.png"),
        ("street.jpg", "street.png"),
        ("street", "street.png"),
        ("v1.2/street", "v1.2/street.png"),
    ],
)
def test_a_prediction_keeps_dots_in_its_name(tmp_path, given, written):
    result = Prediction(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8), ABC)
    assert result.save(tmp_path / given) == tmp_path / written
    assert (tmp_path / written).is_file()


def test_images_keep_dots_in_their_names(tmp_path):
    names = [
        "frame_0.5",
        "frame_0.7",
        "frame_1.5.jpg",
        "two.jpg",
        "two.png",
        "two",
        "x.PNG",
        "y.gif",
    ]
    found = find_images([picture(tmp_path / name) for name in names])
    assert [str(target) for _, target in found] == [
        "frame_0.5.png", "frame_0.7.png", "frame_1.5.png", "two_jpg.png", "two_png.png", "two.png",
        "x.png", "y.png",
    ]  # fmt: skip


def test_compare_json_is_json(run, folder, tmp_path):
    """Class c in no label and, without its token, in no prediction: scores that do not exist."""
    for path in (folder / "labels/val").iterdir():
        Image.fromarray(np.full((40, 50), 10, dtype=np.uint8)).save(path)
    places = []
    for backbone in ("test_resnet", "test_convnext"):
        recipe = Recipe(name="toy", model=ModelSpec(backbone=TOYS[backbone], width=16))
        model = build(recipe.model, ABC)
        with torch.no_grad():
            model.hfgm.tokens.weight.zero_()  # all classes tie, and the first is taken
            if model.hfgm.tokens.bias is not None:
                model.hfgm.tokens.bias.zero_()
        save_model(model, tmp_path / backbone)
        places.append(tmp_path / backbone)
    code, out, err = run("compare", *places, "--data", folder, "--out", tmp_path / "c")
    assert code == 0, err

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads((tmp_path / "c/compare.json").read_text(), parse_constant=refuse)
    (rows,) = content["differences"].values()
    rows = {row.pop("name"): row for row in rows}
    assert rows["c"] == {"first": None, "second": None, "low": None, "high": None}
    assert rows["a"] == {"first": 1.0, "second": 1.0, "low": 0.0, "high": 0.0}
    assert "| c | – | – | – | – |" in out


def test_two_images_of_one_name_are_no_submission(run, tmp_path):
    saved(tmp_path / "city", CITYSCAPES.classes)
    first, second = (picture(tmp_path / "in" / name) for name in ("bonn/1.png", "ulm/1.png"))
    words = ["predict", tmp_path / "city", tmp_path / "in", "--out", tmp_path / "out"]
    code, _, err = run(*words, "--server", "cityscapes")
    assert code == 2
    assert f"'{first}' and '{second}' would both be '1.png' in the submission" in err
    assert not (tmp_path / "out").exists()
    assert run(*words)[0] == 0  # without a server the folders keep them apart


def test_a_submission_holds_the_images_of_its_call(run, tmp_path):
    saved(tmp_path / "city", CITYSCAPES.classes)
    old, new = picture(tmp_path / "in/old_0.5.png"), picture(tmp_path / "in/deep/new.png")
    words = ["--out", tmp_path / "out", "--server", "cityscapes"]
    for inputs, names in (
        ([old], ["old_0.5.png"]),
        ([tmp_path / "in"], ["new.png", "old_0.5.png"]),
        ([new], ["new.png"]),
    ):
        assert run("predict", tmp_path / "city", *inputs, *words)[0] == 0
        with ZipFile(tmp_path / "out/submission.zip") as archive:
            assert archive.namelist() == names
            for name in names:
                assert archive.read(name) == (tmp_path / "out/submission" / name).read_bytes()
    old.write_bytes(b"gone")
    code, _, err = run("predict", tmp_path / "city", old, new, *words)
    assert code == 1
    assert "old_0.5.png" in err
    with ZipFile(tmp_path / "out/submission.zip") as archive:
        assert archive.namelist() == ["new.png"]


def test_a_place_that_cannot_be_is_one_sentence(run, tmp_path):
    saved(tmp_path / "model", ClassSet.of(["a", "b"]))
    image = picture(tmp_path / "in.png")
    for place in ("/proc/nowhere", str(tmp_path / "in.png" / "below")):
        code, _, err = run("predict", tmp_path / "model", image, "--out", place)
        assert code == 2
        assert err.strip().splitlines()[-1].startswith(f"hfgd: '{place}': ")


def test_a_file_that_cannot_be_written_is_named_as_it_was_asked_for(tmp_path):
    path = tmp_path / "gone" / "x.txt"
    with pytest.raises(FileNotFoundError) as refused:
        write_text(path, "x")
    assert refused.value.filename == str(path)


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def write(part):
        part.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, write)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.txt", "old")]
