"""What predict does not read of images is said once; unknown names get the three nearest."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import hfgd
from hfgd.cli.main import app
from hfgd.data.formats import FORMATS
from hfgd.errors import FEW, unknown
from hfgd.inference.labeller import InferenceConfig
from hfgd.predict import predict_files


def toy(**changes):
    return hfgd.create(
        "sfpn_resnet50",
        classes=["a", "b", "c"],
        backbone={"name": "test_resnet"},
        width=16,
        **changes,
    )


def test_predict_says_once_what_it_does_not_read(tmp_path):
    pixels = Image.fromarray(np.zeros((40, 30, 3), dtype=np.uint8))
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        pixels.convert("RGBA").save(tmp_path / f"in/{name}.png")
    pixels.save(tmp_path / "in/pages.tif", save_all=True, append_images=[pixels])
    pixels.save(tmp_path / "in/plain.png")
    toy().save(tmp_path / "model")
    outcome = predict_files(
        str(tmp_path / "model"), [tmp_path / "in"], tmp_path / "out", InferenceConfig(device="cpu")
    )
    assert (outcome.done, outcome.failed) == (4, [])
    assert outcome.warnings == [
        "1 of 4 images have several pages or frames; only the first one is read",
        "2 of 4 images have an alpha channel; it is not used",
    ]


@pytest.mark.parametrize("name", ["zzz", "hfgd_resnt50", "swin", ""])
def test_a_hundred_names_are_never_listed(name):
    known = [f"table{i}/row" for i in range(100)] + ["hfgd_resnet50", "hfgd_swin_large"]
    said = str(unknown("recipe", name, known))
    assert said.endswith("See 'hfgd recipes'.")
    assert 1 <= sum(other in said for other in known) <= 3
    if name in ("hfgd_resnt50", "swin"):
        assert "did you mean 'hfgd_" in said


def test_few_names_are_all_listed():
    assert "known: a, b." in str(unknown("thing", "zzz", "ab"))
    assert len(FORMATS) <= FEW


def test_info_of_a_folder_gives_its_statistics(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
    Image.new("RGB", (8, 4)).save(tmp_path / "images/train/x.png")
    label = np.zeros((4, 8), dtype=np.uint8)
    label[:, :2] = 1
    Image.fromarray(label).save(tmp_path / "labels/train/x.png")
    (tmp_path / "data.yaml").write_text("classes: [wall, crack]")
    picture = str(tmp_path / "samples.png")
    done = CliRunner().invoke(app, ["data", "info", str(tmp_path), "--out", picture])
    assert done.exit_code == 0, done.output
    assert "train: 1 pair\n" in done.output
    assert "crack" in done.output
    assert "25.000" in done.output
