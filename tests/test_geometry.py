"""Sizes and resizes against recipe 8.1 and 8.6 (TensorFlow's align-corners, run there)."""

import pytest
import torch

from hfgd.resample import labels_at, resize, resize_labels, resize_window, restore
from hfgd.types import Frame, Grid

NEAREST = {
    (5, 8): [0, 1, 1, 2, 2, 3, 3, 4],
    (5, 9): [0, 1, 1, 2, 2, 3, 3, 4, 4],
    (6, 4): [0, 2, 3, 5],
    (10, 4): [0, 3, 6, 9],
    (7, 4): [0, 2, 4, 6],
    (513, 17): list(range(0, 513, 32)),
    (512, 16): [0, 34, 68, 102, 136, 170, 204, 238, 273, 307, 341, 375, 409, 443, 477, 511],
}


@pytest.mark.parametrize(("sizes", "expected"), NEAREST.items())
def test_nearest_resize_rounds_like_the_authors_code(sizes, expected):
    n_in, n_out = sizes
    label = torch.arange(n_in)[None, None, :]
    assert resize_labels(label, (1, n_out), Grid.CORNERS)[0, 0].tolist() == expected


def test_bilinear_corners_golden():
    x = torch.arange(5.0)[None, None, None, :]
    y = resize(x, (1, 8), Grid.CORNERS).flatten()
    golden = torch.tensor([0, 0.5714, 1.1429, 1.7143, 2.2857, 2.8571, 3.4286, 4.0])
    torch.testing.assert_close(y, golden, atol=1e-4, rtol=0)


@pytest.mark.parametrize("grid", Grid)
@pytest.mark.parametrize("size", [(40, 61), (10, 9), (20, 30), (1, 1)])
def test_a_window_of_a_resize_is_that_window(grid, size):
    x, label = torch.rand(3, 20, 30), torch.randint(0, 9, (20, 30))
    whole = resize(x[None], size, grid)[0]
    rows, columns = slice(size[0] // 3, size[0]), slice(0, size[1] // 2 + 1)
    window = resize_window(x, size, rows, columns, grid)
    torch.testing.assert_close(window, whole[:, rows, columns], atol=1e-5, rtol=0)
    ids = resize_labels(label[None], size, grid, rows, columns)
    assert torch.equal(ids, resize_labels(label[None], size, grid)[:, rows, columns])


def test_cells_take_the_centre_of_each_patch():
    label = torch.arange(64)[None, None, :]
    assert resize_labels(label, (1, 2), Grid.CELLS)[0, 0].tolist() == [16, 48]


@pytest.mark.parametrize(
    ("grid", "side", "padded"),
    [
        (Grid.CORNERS, 513, 513),
        (Grid.CORNERS, 512, 513),
        (Grid.CORNERS, 514, 545),
        (Grid.CORNERS, 1, 33),
        (Grid.CORNERS, 33, 33),
        (Grid.CELLS, 512, 512),
        (Grid.CELLS, 513, 544),
        (Grid.CELLS, 1, 32),
    ],
)
def test_padding_goes_to_the_next_exact_size(grid, side, padded):
    assert grid.padded((side, side)) == (padded, padded)


def test_finer_levels_of_513_are_the_recipes():
    sides, size = [], (17, 17)
    for _ in range(4):
        size = Grid.CORNERS.finer(size)
        sides.append(size[0])
    assert sides == [33, 65, 129, 257]


def test_resizes_between_levels_are_exact_for_linear_images():
    """A ramp stays a ramp through any corner-aligned resize: nothing shifts."""
    ramp = torch.linspace(0, 1, 513)[None, None, None, :].expand(1, 1, 17, 513)
    small = resize(ramp, (17, 17), Grid.CORNERS)
    torch.testing.assert_close(small[0, 0, 0], torch.linspace(0, 1, 17), atol=1e-6, rtol=0)


def test_frame_restores_and_pads():
    frame = Frame((40, 50), Grid.CORNERS.padded((40, 50)), Grid.CORNERS)
    assert frame.padded == (65, 65)
    assert restore(torch.zeros(2, 3, 3, 3), frame).shape == (2, 3, 40, 50)
    coarse = labels_at(torch.zeros(1, 40, 50, dtype=torch.long), (3, 3), frame, 255)
    assert coarse[0].tolist() == [[0, 0, 255], [0, 0, 255], [255, 255, 255]]
