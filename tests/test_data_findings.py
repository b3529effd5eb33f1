"""What ``data check`` finds in files that can be read: a class alone, turned labels, flat images."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import yaml
from PIL import Image

from hfgd.data.archive import Packed
from hfgd.data.check import check_folder
from hfgd.data.findings import refuse_one_class
from hfgd.data.folder import FolderData
from hfgd.data.images import read_image
from hfgd.data.open import open_dataset
from hfgd.errors import HfgdError
from hfgd.recipes.named import find_recipe, toy
from hfgd.training.fit import fit

SIZE = (40, 40)
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def noise(seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def corner(value, background=0, size=SIZE):
    """A label with an odd-shaped object in its upper left part."""
    label = np.full(size, background, dtype=np.uint8)
    label[3:17, 5:25] = value
    label[17:24, 5:11] = value
    return label


def folder(root, labels, images=None, data_yaml="classes: [background, crack]", split="train"):
    """A data folder of one split; ``labels`` and ``images``: arrays, or what saves a file."""
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    for number, label in enumerate(labels):
        Image.fromarray(label).save(root / f"labels/{split}/{number}.png")
        image = noise(number, label.shape[:2]) if images is None else images[number]
        if callable(image):
            image(root / f"images/{split}/{number}")
        else:
            Image.fromarray(image).save(root / f"images/{split}/{number}.png")
    (root / "data.yaml").write_text(data_yaml)
    return root


def checked(root):
    (report,) = check_folder(FolderData(root)).splits
    return report


def proposed(root, sentence):
    """data.yaml with what a problem says to write into it."""
    said = sentence.partition("write into data.yaml: ")[2].partition(" (or")[0]
    lines = said.split("; ")
    kept = [] if lines[0].startswith("classes") else (root / "data.yaml").read_text().split("\n")
    (root / "data.yaml").write_text("\n".join([*kept, *lines]))


@pytest.mark.situation(
    "data check",
    "masks of 0 and 255 without a `label_map`",
    "a problem, with the line for data.yaml",
)
@pytest.mark.parametrize(
    "data_yaml",
    ["classes: [background, crack]", "classes: [crack]", "classes: [background, 'no: x', other]"],
)
def test_masks_of_0_and_255_are_a_problem_with_the_line_that_mends_them(tmp_path, data_yaml):
    root = folder(tmp_path, [corner(255), corner(255)], data_yaml=data_yaml)
    (problem,) = checked(root).problems
    assert "hold 0 and 255 alone, and 255 means ignore" in problem
    with pytest.raises(HfgdError, match="hold 0 and 255 alone"):
        refuse_one_class(open_dataset(str(root), "train"))
    proposed(root, problem)
    report = checked(root)
    assert not report.problems
    object_pixels = int((corner(1) == 1).sum())
    assert report.pixels[1] == 2 * object_pixels
    assert report.pixels[-1] == 0
    assert refuse_one_class(open_dataset(str(root), "train")) is None
    assert yaml.safe_load((root / "data.yaml").read_text())["label_map"].keys() == {0, 255}


def test_training_meets_the_same_check(tmp_path):
    root = folder(tmp_path / "data", [corner(255)] * 2)
    folder(tmp_path / "data", [corner(255)], split="val")
    recipe = toy(find_recipe("hfgd_resnet50")).with_(**{"data": {"location": str(root)}})
    with pytest.raises(HfgdError, match="hold 0 and 255 alone, and 255 means ignore"):
        fit(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.situation(
    "data check",
    "one class alone; a class that never occurs while much is ignored",
    "a problem; a warning with the likely cause",
)
def test_a_class_alone_and_a_class_behind_ignore(tmp_path):
    three = "classes: [a, b, c]"
    (problem,) = checked(folder(tmp_path / "1", [corner(1, 255)], data_yaml=three)).problems
    assert re.search("'b' is all there is to learn, and 80% of the pixels are ignored", problem)
    (problem,) = checked(folder(tmp_path / "2", [corner(1, 1)], data_yaml=three)).problems
    assert "'b' is the only class that occurs" in problem
    both = corner(1)
    both[30:] = 255
    report = checked(folder(tmp_path / "3", [both], data_yaml=three))
    assert not report.problems
    assert "never occur in 'train': c; 25% of the pixels are ignored" in report.remarks[0]
    both[30:] = 0
    both[30, :3] = 255  # a border's share
    report = checked(folder(tmp_path / "4", [both], data_yaml=three))
    assert report.remarks == ["classes that never occur in 'train': c"]


@pytest.mark.situation(
    "data check",
    "masks of two kinds in one split",
    "a warning",
)
def test_masks_of_two_kinds_in_one_split(tmp_path):
    report = checked(folder(tmp_path, [corner(255), corner(1), corner(1)]))
    assert not report.problems
    assert any("1 label files hold 0 and 255 alone, and 2 hold 1" in r for r in report.remarks)


def turned(pixels, orientation, suffix=".png"):
    """Saves an image as a camera does that was turned: rows as stored, and the EXIF tag."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return lambda path: Image.fromarray(pixels).save(path.with_suffix(suffix), exif=exif)


@pytest.mark.situation(
    "data check",
    "masks made from the stored pixels of images that EXIF turns",
    "a problem where edges show it, else a remark",
)
@pytest.mark.parametrize("orientation", range(2, 9))
def test_labels_of_the_stored_pixels_are_a_problem_and_upright_ones_are_not(tmp_path, orientation):
    label = corner(1)
    stored = np.where(label[..., None] > 0, np.uint8(200), np.uint8(40)) + noise(1) // 8
    images = [turned(stored, orientation)]
    report = checked(folder(tmp_path / "stored", [label], images))
    (problem,) = report.problems
    assert "1 of 1 images are turned upright by EXIF ('0'), and their labels fit the images as" in (
        problem
    )
    folder(tmp_path / "upright", [label], images)
    upright = read_image(tmp_path / "upright/images/train/0.png")
    Image.fromarray((upright[..., 0] > 120).astype(np.uint8)).save(
        tmp_path / "upright/labels/train/0.png"
    )
    report = checked(tmp_path / "upright")
    assert not report.problems
    assert any("turned upright by EXIF ('0'); their labels are taken" in r for r in report.remarks)


def test_a_label_that_lies_on_its_side_says_why_sizes_differ(tmp_path):
    label = corner(1, size=(30, 50))
    report = checked(folder(tmp_path, [label], [turned(noise(0, (30, 50)), 6, ".jpg")]))
    (problem,) = report.problems
    assert "the label is of the image as stored: take the orientation out" in problem


@pytest.mark.situation(
    "data check",
    "constant images; many copies of one",
    "a warning",
)
def test_flat_images_and_many_copies_are_named(tmp_path):
    white, nearly = np.full((*SIZE, 3), 255, np.uint8), np.full((*SIZE, 3), 9, np.uint8)
    nearly[3:5, 3:9] = 80
    images = [white, nearly, noise(0), noise(7), noise(7), noise(7)]
    report = checked(folder(tmp_path, [corner(1)] * 6, images))
    flat, copies = report.remarks
    assert flat.startswith("2 of 6 images are of one colour, or nearly ('0', '1'); deep images")
    assert copies.startswith("3 images are the same picture as others, pixel by pixel; 3 times")
    assert not report.problems


@pytest.mark.situation(
    "images",
    "several pages, more bands, an alpha channel",
    "read: the first page, RGB; a warning with the count",
)
def test_pages_bands_and_alpha_are_said_once_with_the_count(tmp_path):
    page = Image.fromarray(noise(0))

    def pages(path):
        page.save(path.with_suffix(".tif"), save_all=True, append_images=[page])

    def alpha(path):
        page.convert("RGBA").save(path.with_suffix(".png"))

    def bands(path):
        planes = np.moveaxis(np.concatenate([noise(0), noise(1)], axis=2)[..., :5], 2, 0)
        with rasterio.open(
            path.with_suffix(".tif"), "w", driver="GTiff", height=40, width=40, count=5,
            dtype="uint8", photometric="rgb",
        ) as file:  # fmt: skip
            file.write(planes)

    def overviews(path):
        with rasterio.open(
            path.with_suffix(".tif"), "w", driver="GTiff", height=40, width=40, count=3,
            dtype="uint8", photometric="rgb",
        ) as file:  # fmt: skip
            file.write(np.moveaxis(noise(2), 2, 0))
            file.build_overviews([2])

    images = [pages, alpha, alpha, bands, overviews]
    report = checked(folder(tmp_path, [corner(1)] * 5, images))
    assert not report.problems
    assert [remark for remark in report.remarks if " of 5 images have " in remark] == [
        "1 of 5 images have several pages or frames; only the first one is read",
        "1 of 5 images have further bands; only red, green and blue, or the one grey band, are read",
        "2 of 5 images have an alpha channel; it is not used",
    ]


def run_line(error):
    """Run the command that a refusal prints; what it wrote, as numbers."""
    line = str(error.value).partition("for example with: ")[2].partition(" (take the same")[0]
    program, *arguments = shlex.split(line)
    assert program == "python"
    subprocess.run([sys.executable, *arguments], check=True)
    path = re.search(r'save\("(.*)"\)', arguments[-1])[1]
    return read_image(path)


@pytest.mark.situation(
    "images",
    "16 bits a channel, float",
    "refused, with a line of Python that scales them",
)
@pytest.mark.parametrize("kind", ["uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("options", [{}, {"compress": "deflate", "endianness": "big"}])
def test_the_printed_line_scales_a_deep_grey_image(tmp_path, kind, options):
    values = np.linspace(100, 4000, 1600).reshape(SIZE).astype(kind)
    path = tmp_path / "it's deep.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=40, width=40, count=1, dtype=kind, **options
    ) as file:
        file.write(values, 1)
    with pytest.raises(HfgdError, match="convert it to 8-bit RGB, from its range of 100 to 4") as e:
        read_image(path)
    wanted = np.rint((values.astype(float) - 100) * 255 / 3900).astype(np.uint8)
    assert np.array_equal(run_line(e), np.stack([wanted] * 3, axis=2))


@pytest.mark.parametrize("bands", [3, 4])
def test_the_printed_line_scales_deep_colours(tmp_path, bands):
    values = np.random.default_rng(0).integers(0, 4096, (bands, *SIZE), dtype=np.uint16)
    values[0, 0, :2] = 0, 4095
    path = tmp_path / "x.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=40, width=40, count=bands, dtype="uint16"
    ) as file:
        file.write(values)
    with pytest.raises(HfgdError, match="convert it to 8-bit RGB, for example") as error:
        read_image(path)
    wanted = np.rint(values[:3].astype(float) * 255 / 4095).astype(np.uint8)
    assert np.array_equal(run_line(error), np.moveaxis(wanted, 0, 2))


def test_a_deep_image_without_a_path_has_no_line(tmp_path):
    Image.fromarray(np.arange(4, dtype=np.uint16).reshape(2, 2)).save(tmp_path / "x.png")
    packed = Packed("row 3", "x.png", (tmp_path / "x.png").read_bytes)
    with pytest.raises(HfgdError, match=r"from its range of 0 to 3, scaled by the range"):
        read_image(packed)
