"""Folders that are links: followed wherever images are looked for, and never round in circles."""

import numpy as np
import pytest
from PIL import Image

from hfgd.data.archive import files_below, list_files
from hfgd.data.folder import FolderData, FolderDataset
from hfgd.predict import find_images


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6), 10, dtype=np.uint8)).save(path)


def names(folder):
    return [path.relative_to(folder).as_posix() for path in files_below(folder)]


@pytest.fixture
def linked(folder, tmp_path):
    """The tiny data folder with a second drive's folders linked into its train split."""
    for kind in ("images", "labels"):
        for name in ("b.png", "deep/a.png"):
            put(tmp_path / "drive" / kind / name)
        (folder / kind / "train/more").symlink_to(tmp_path / "drive" / kind)
    return folder


def test_a_data_folder_sees_linked_folders(linked):
    data = FolderData(linked)
    dataset = FolderDataset(data, "train")
    assert [pair.name for pair in dataset.pairs] == [
        "more/b", "more/deep/a", "train0", "train1", "train2"
    ]  # fmt: skip
    assert dataset[0].image.shape == (3, 4, 6)


@pytest.mark.situation(
    "data folders",
    "folders that are links",
    "read; circles end",
)
def test_a_whole_split_may_be_a_link(folder, tmp_path):
    for kind in ("images", "labels"):
        put(tmp_path / "drive" / kind / "x.png")
        (folder / kind / "test").symlink_to(tmp_path / "drive" / kind)
    data = FolderData(folder)
    assert data.splits() == ["test", "train", "val"]
    assert [pair.name for pair in FolderDataset(data, "test").pairs] == ["x"]


def test_predict_sees_linked_folders_in_order(linked):
    found = [str(target) for _, target in find_images([linked / "images/train"])]
    assert found == ["more/b.png", "more/deep/a.png", "train0.png", "train1.png", "train2.png"]


def test_circles_of_links_end(tmp_path):
    for name in ("a/x.png", "a/sub/y.png", "b/z.png"):
        put(tmp_path / name)
    (tmp_path / "a/sub/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/self").symlink_to(tmp_path / "a/self")
    assert names(tmp_path / "a") == ["self", "sub/y.png", "x.png"]
    (tmp_path / "a/b").symlink_to(tmp_path / "b")
    (tmp_path / "b/a").symlink_to(tmp_path / "a")
    assert names(tmp_path / "a") == ["b/z.png", "self", "sub/y.png", "x.png"]
    assert sorted(list_files(tmp_path / "a")) == names(tmp_path / "a")


def test_two_links_to_one_folder_are_two_folders(tmp_path):
    put(tmp_path / "drive/x.png")
    (tmp_path / "in").mkdir()
    for name in ("one", "two"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "drive")
    assert names(tmp_path / "in") == ["one/x.png", "two/x.png"]


def test_the_order_is_that_of_the_paths(tmp_path):
    for name in ("b.png", "a/z.png", "a.png", "B.png", "a/b/c.png"):
        put(tmp_path / name)
    assert files_below(tmp_path) == sorted(p for p in tmp_path.rglob("*") if p.is_file())


def test_hidden_files_and_folders_named_like_images_are_no_images(tmp_path):
    put(tmp_path / "in/odd.png/x.png")
    (tmp_path / "in/._x.png").write_bytes(b"what another system leaves behind")
    assert [str(target) for _, target in find_images([tmp_path / "in"])] == ["odd.png/x.png"]
