"""An image larger than memory, labelled by overlapping tiles whose scores are blended.

A tile covers a cell and reaches ``overlap`` pixels into the next one at the right and below; there
the scores of both are mixed, by weights that go from 0 to 1 across the middle of the overlap. What
a tile gives to cells that are not finished waits: for the next tile of the row in memory, for the
next row in a temporary file. So memory depends on the tile, and on nothing of the image.
"""

import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hfgd.data.images import Pixels
from hfgd.inference.confidence import best_and_sure
from hfgd.inference.labeller import Labeller
from hfgd.types import COARSEST, Grid, Size

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    Floats = npt.NDArray[np.float32]

SIDE = 1024  # of a tile, about
VALUES = 32_000_000  # scores of one tile that are held at most: 128 MB in fp32
BLOCK = 256  # of the label file; cells are whole blocks


class Tiles(NamedTuple):
    """``cell`` and ``overlap`` in pixels, multiples of the coarsest stride, so that the samples of a
    tile lie where those of the whole image would; ``extra`` is 1 on the corners grid."""

    cell: int
    overlap: int
    extra: int = 0

    @property
    def side(self) -> int:
        """Of a tile."""
        return self.cell + self.overlap + self.extra

    def starts(self, length: int) -> list[int]:
        """Where the tiles of one axis begin; the last one reaches the end."""
        count = max(1, -(-(length - self.overlap - self.extra) // self.cell))
        return [i * self.cell for i in range(count)]

    def weights(self, start: int, length: int) -> "Floats":
        """A tile's share at each of its pixels along one axis of an image; with its neighbours' 1."""
        stop = min(start + self.side, length)
        share = np.ones(stop - start, dtype=np.float32)
        if start > 0:
            share[: self.overlap + self.extra] = self._ramp()
        if stop < length:
            share[self.cell :] = 1 - self._ramp()
        return share

    def _ramp(self) -> "Floats":
        """0 in the first quarter of the overlap, 1 in the last: a tile's border knows too little of
        what lies around it."""
        count = self.overlap + self.extra
        place = (np.arange(count, dtype=np.float32) + 0.5) / count
        return np.clip(2 * place - 0.5, 0, 1)


def choose_tiles(classes: int, grid: Grid | None, tile: int | None = None) -> Tiles:
    """Tiles of about ``tile`` pixels a side, or of ``SIDE`` where ``VALUES`` allows it."""
    side = tile or min(SIDE, int((VALUES / classes) ** 0.5))
    step = max(BLOCK, COARSEST)
    cell = max(step, int(0.75 * side) // step * step)
    overlap = max(COARSEST, min(cell // 4, 256) // COARSEST * COARSEST)
    return Tiles(cell, overlap, 1 if grid is not Grid.CELLS else 0)


class Block(NamedTuple):
    """A finished cell: where it lies, its labels (h, w) and the best class's probability summed."""

    top: int
    left: int
    pixels: Pixels
    labels: Pixels
    confidence: float


def label_tiles(
    labeller: Labeller, size: Size, read: Callable[[int, int, int, int], Pixels], tiles: Tiles
) -> Iterator[Block]:
    """The cells of an image in reading order. ``read(top, left, height, width)`` gives its pixels.

    Raises HfgdError for an exported file that gives labels alone.
    """
    import torch

    rows, columns = tiles.starts(size[0]), tiles.starts(size[1])
    with _Waiting(len(columns)) as below:
        for r, top in enumerate(rows):
            beside: Tensor | None = None
            for c, left in enumerate(columns):
                y, x = (tiles.weights(a, n) for a, n in ((top, size[0]), (left, size[1])))
                pixels = read(top, left, len(y), len(x))
                image = torch.from_numpy(pixels).permute(2, 0, 1)
                found = labeller.reduced(image, lambda rows, scores: scores.float()).cpu()
                scores = torch.from_numpy(found.numpy())  # may be changed outside inference mode
                del found
                scores *= torch.from_numpy(y)[:, None, None]
                scores *= torch.from_numpy(x)[None, :, None]
                if beside is not None:
                    scores[:, : beside.shape[1]] += beside
                last_row, last_column = r + 1 == len(rows), c + 1 == len(columns)
                beside = None if last_column else scores[:, tiles.cell :].clone()
                if r:
                    above = below.take(c)
                    scores[: above.shape[0], : above.shape[1]] += above
                height = len(y) if last_row else tiles.cell
                width = len(x) if last_column else tiles.cell
                if not last_row:
                    below.keep(c, scores[tiles.cell :, :width])
                yield _finish(top, left, pixels[:height, :width], scores[:height, :width])


def _finish(top: int, left: int, pixels: Pixels, scores: "Tensor") -> Block:
    labels, sure = best_and_sure(scores)
    return Block(top, left, pixels, labels.numpy(), float(sure))


class _Waiting:
    """Scores that wait for the next row of tiles, in a file without a name: one place a column."""

    def __init__(self, columns: int) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._shapes: list[tuple[int, ...]] = [()] * columns
        self._place = 0  # bytes of a column: the first is as large as any but the last

    def __enter__(self) -> "_Waiting":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def keep(self, column: int, scores: "Tensor") -> None:
        values = scores.contiguous().numpy()
        self._place = self._place or values.nbytes
        self._shapes[column] = values.shape
        self._file.seek(column * self._place)
        self._file.write(values.data)

    def take(self, column: int) -> "Tensor":
        import torch

        values = np.empty(self._shapes[column], dtype=np.float32)
        self._file.seek(column * self._place)
        self._file.readinto(values.data)
        return torch.from_numpy(values)
