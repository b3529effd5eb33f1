"""Small pictures for a gallery: photographs, class ids and heat, as bytes of WebP and PNG."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Semaphore
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from hfgd.data.images import Pixels, open_image
from hfgd.inference.labeller import Labeller
from hfgd.inference.run_protocol import best_class
from hfgd.parallel.launch import is_main

SIDE = 400  # pixels of the longer side: 500 images with all their layers stay below 60 MB
QUALITY, HEAT_QUALITY = 70, 60  # of WebP


def small_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the small pictures of an image; nothing is enlarged."""
    share = min(1.0, SIDE / max(height, width))
    return max(1, round(share * height)), max(1, round(share * width))


def picks(length: int, count: int) -> npt.NDArray[np.int64]:
    """Which ``count`` of ``length`` rows or columns a small label map shows: those in the middle."""
    return (2 * np.arange(count, dtype=np.int64) + 1) * length // (2 * count)


def photo(pixels: Pixels) -> bytes:
    """(H, W, 3) uint8 RGB → a small WebP."""
    height, width = small_size(*pixels.shape[:2])
    image = Image.fromarray(pixels)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2)
    return _bytes(image, format="WEBP", quality=QUALITY, method=0)


def label_picture(ids: Pixels) -> bytes:
    """Class ids (H, W) uint8, at any size → a small grey PNG whose values are the ids."""
    return _bytes(Image.fromarray(_small(ids)), format="PNG", compress_level=6)


def heat(values: Pixels) -> bytes:
    """(H, W) uint8, 0 to 255 for 0 to 1, at any size → a small WebP."""
    grey = Image.fromarray(_small(values)).convert("RGB")
    return _bytes(grey, format="WEBP", quality=HEAT_QUALITY, method=0)


def pixels_of(picture: bytes) -> Pixels:
    """The values of ``label_picture`` or ``heat``, (h, w) uint8."""
    with open_image(BytesIO(picture)) as image:
        return np.asarray(image.convert("L"))


def _small(values: Pixels) -> Pixels:
    """Every so many rows and columns; what is small already stays as it is."""
    height, width = values.shape
    rows, columns = small_size(height, width)
    if (rows, columns) == (height, width):
        return np.ascontiguousarray(values)
    return values[picks(height, rows)][:, picks(width, columns)]


def _bytes(image: Image.Image, **how: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, **how)
    return buffer.getvalue()


# ---- thumbnails while scoring --------------------------------------------------------------------


FOLDER = ".pictures"

THREADS = max(1, min(4, (os.cpu_count() or 1) // 2))
Places = npt.NDArray[np.int64]
WAITING = 2 * THREADS + 2  # images that may wait for a thread: memory stays bounded


class Thumbnails:
    """Pictures of one model's predictions and confidence, and of the images where ``photos``.

    Each process of several writes its own images into the one ``folder``.
    """

    def __init__(self, folder: Path, model: int = 0, photos: bool = True) -> None:
        self.folder, self.model, self.photos = folder, model, photos
        self._sure: Tensor | None = None  # of the image that was labelled last
        self._room = Semaphore(WAITING)
        self._threads = ThreadPoolExecutor(THREADS)
        self._futures: list[Future[None]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def labels(self, labeller: Labeller, image: Tensor) -> Tensor:
        """``labeller.labels(image)``, in the one pass that gives the confidence too."""
        self._sure = None
        if not labeller.gives_scores:
            return labeller.labels(image)
        parts: list[Tensor] = []
        sides = zip(image.shape[1:], small_size(image.shape[1], image.shape[2]), strict=True)
        rows, columns = (picks(length, count) for length, count in sides)

        def reduce(part: slice, scores: Tensor) -> Tensor:
            first, last = np.searchsorted(rows, [part.start, part.stop])
            if last > first:
                parts.append(confidence(_at(scores, rows[first:last] - part.start, columns)))
            return best_class(part, scores)

        labels = labeller.reduced(image, reduce)
        self._sure = torch.cat(parts)
        return labels

    def keep(self, index: int, image: Tensor, label: Tensor, labels: Tensor) -> None:
        """Write the pictures of image ``index`` of the data set, whose ``labels`` were just told."""
        self._room.acquire()
        self._futures = [future for future in self._futures if not _fine(future)]
        work = self._threads.submit(self._write, index, image, label, labels, self._sure)
        work.add_done_callback(lambda _: self._room.release())
        self._futures.append(work)

    def finish(self) -> None:
        """Wait for the last picture; raises what kept one from being written."""
        self._threads.shutdown()
        for future in self._futures:
            future.result()

    def _write(
        self, index: int, image: Tensor, label: Tensor, labels: Tensor, sure: Tensor | None
    ) -> None:
        if self.photos:
            pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
            picture_file(self.folder, index, "image").write_bytes(photo(pixels))
            truth = label_picture(label.cpu().numpy())
            picture_file(self.folder, index, "truth").write_bytes(truth)
        guess = label_picture(labels.cpu().numpy())
        picture_file(self.folder, index, f"prediction/{self.model}").write_bytes(guess)
        if sure is not None:
            picture = heat(sure.cpu().numpy())
            picture_file(self.folder, index, f"confidence/{self.model}").write_bytes(picture)


def picture_file(folder: Path, index: int, layer: str) -> Path:
    """Where a layer of image ``index`` lies."""
    return folder / f"{index:07d}.{layer.replace('/', '-')}"


@contextmanager
def pictures_in(folder: Path) -> Iterator[Path]:
    """A folder for pictures in a report's folder, removed afterwards; by one process of several."""
    pictures = folder / FOLDER
    try:
        yield pictures
    finally:
        if is_main():
            shutil.rmtree(pictures, ignore_errors=True)


def confidence(scores: Tensor) -> Tensor:
    """Scores (…, K) → the probability of the best class, 0 to 255 for 0 to 1, uint8."""
    scores = scores.float()
    most = scores.amax(-1)
    likely = 1 / (scores - most[..., None]).exp_().sum(-1)
    return (255 * likely).round_().to(torch.uint8)


def _at(scores: Tensor, rows: Places, columns: Places) -> Tensor:
    """Some rows and columns of (rows, W, K); all of them without a copy."""
    if len(rows) < scores.shape[0]:
        scores = scores[torch.from_numpy(rows).to(scores.device)]
    if len(columns) < scores.shape[1]:
        scores = scores[:, torch.from_numpy(columns).to(scores.device)]
    return scores


def _fine(future: Future[None]) -> bool:
    return future.done() and future.exception() is None
