"""What a model says of each image, small, written to files by a thread while it is scored."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Semaphore

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hfgd.evaluation.page.pictures import heat, label_picture, photo, picks, small_size
from hfgd.inference.labeller import Labeller
from hfgd.inference.passes import best_class
from hfgd.parallel.rank import is_main

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
