"""Which image a sample is made of, beyond the plain passes: rare classes first, and second images.

All of it needs to know how many pixels of each class every image has: ``class_counts``, from the labels
alone. It is the same for every process, and a run keeps it, so that one that goes on does as well.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from hfgd.data.classes import ClassSet
from hfgd.data.dataset import Batch, Sample, SegDataset, label_of, sample_of
from hfgd.data.transforms.mixing import CopyPaste, CutMix
from hfgd.data.transforms.pipeline import Augment
from hfgd.data.transforms.spec import COPY_PASTE, CUTMIX, PARTNER, RARE, AugmentSpec, Rng, stream
from hfgd.errors import HfgdError, unknown
from hfgd.files import write_whole
from hfgd.parallel.launch import begin_worker

Counts = np.ndarray  # (images, classes) int64: labelled pixels


def needs_counts(spec: AugmentSpec) -> bool:
    """Whether a recipe samples by class."""
    return spec.rare_class_sampling > 0 or bool(spec.copy_paste)


def class_counts(
    dataset: SegDataset, progress: Callable[[int], None] = lambda done: None
) -> Counts:
    """Labelled pixels of each class in every image, (N, K)."""
    counts = np.zeros((len(dataset), len(dataset.classes)), dtype=np.int64)
    for i in range(len(dataset)):
        found = np.bincount(label_of(dataset, i).numpy().ravel(), minlength=256)
        counts[i] = found[: counts.shape[1]]
        progress(i + 1)
    return counts


def read_counts(path: Path, dataset: SegDataset) -> Counts | None:
    """The counts that a run keeps; None where there are none of this many images and classes."""
    try:
        counts: Counts = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return counts if counts.shape == (len(dataset), len(dataset.classes)) else None


def write_counts(path: Path, counts: Counts) -> None:
    """Keep them, whole."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.save(file, counts)

    write_whole(path, write)


class RareClasses:
    """Draws a class, rare ones more often, then an image that has it."""

    def __init__(self, counts: Counts, temperature: float) -> None:
        pixels = counts.sum(0)
        seen = pixels > 0
        if not seen.any():
            raise HfgdError("augment.rare_class_sampling needs labels, and no image has any.")
        shares = pixels / pixels.sum()
        # less the largest exponent, so that nothing overflows
        heights = np.exp((shares[seen].min() - shares) / temperature) * seen
        self.chances = heights / heights.sum()
        self.images = [np.flatnonzero(column) for column in counts.T]

    def draw(self, rng: Rng) -> tuple[int, int]:
        """An image and the class that its crop shall show."""
        wanted = int(rng.choice(len(self.chances), p=self.chances))
        images = self.images[wanted]
        return int(images[rng.integers(len(images))]), wanted


class Donors:
    """The images that have one of some classes, for copy-paste."""

    def __init__(self, counts: Counts, names: Sequence[str], classes: ClassSet) -> None:
        self.classes = chosen_classes(names, classes)
        self.counts = counts[:, self.classes]
        self.images = np.flatnonzero(self.counts.any(1))
        if not len(self.images):
            raise HfgdError(
                f"augment.copy_paste: no image has {' or '.join(names)}; choose other classes."
            )

    def draw(self, rng: Rng) -> tuple[int, int]:
        """An image and the one of the classes that its crop shall show."""
        image = int(self.images[rng.integers(len(self.images))])
        there = np.flatnonzero(self.counts[image])
        return image, self.classes[there[rng.integers(len(there))]]


def chosen_classes(names: Sequence[str], classes: ClassSet) -> list[int]:
    """Class ids of the names; raises HfgdError for a name that the data do not have."""
    for name in names:
        if name not in classes.names:
            raise HfgdError(f"augment.copy_paste: {unknown('class', name, classes.names)}")
    return [classes.names.index(name) for name in names]


# ---- streams and batches -------------------------------------------------------------------------


SHUFFLE, AUGMENT = 0, 1  # keep the streams of random numbers apart
MORE_SHARED = (
    "raise the container's limit (docker run --shm-size=8g), or read without workers: "
    "train.workers=0, or --workers 0"
)
WORKER_DIED = (
    "a process that loads images died, often out of memory: try a smaller train.workers "
    "(or --workers)"
)


def count_workers(setting: int | Literal["auto"]) -> int:
    """Processes that make batches: 'auto' shares the cores among this machine's processes."""
    if setting != "auto":
        return setting
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(8, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


class TrainStream(Dataset[Sample | HfgdError]):
    """Sample k: pass k // N over the N images in an order of its own, augmented by (seed, k).

    ``counts``: see class_counts; counted here where they are needed and not given.
    """

    def __init__(
        self, dataset: SegDataset, augment: Augment, seed: int, counts: Counts | None = None
    ) -> None:
        self.dataset, self.augment, self.seed = dataset, augment, seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        spec = augment.spec
        if counts is None and needs_counts(spec):
            counts = class_counts(dataset)
        self._rare = self._donors = None
        if counts is not None and spec.rare_class_sampling:
            self._rare = RareClasses(counts, spec.rare_class_temperature)
        if counts is not None and spec.copy_paste:
            self._donors = Donors(counts, spec.copy_paste, dataset.classes)

    def __getitem__(self, k: int) -> Sample | HfgdError:
        epoch, position = divmod(k, len(self.dataset))
        if epoch != self._epoch:
            shuffle = np.random.default_rng([self.seed, SHUFFLE, epoch])
            self._epoch, self._order = epoch, shuffle.permutation(len(self.dataset))
        try:
            return self.drawn(int(self._order[position]), k)
        except HfgdError as error:
            return error  # raised by TrainBatches, so that a worker process adds no traceback

    def drawn(self, index: int, k: int, wanted: int | None = None, rare: bool = True) -> Sample:
        """What sample k is if its turn is the image ``index``; without ``rare`` it keeps it."""
        rng = np.random.default_rng([self.seed, AUGMENT, k])
        if self._rare is not None and rare:
            own = stream(rng, RARE)
            if own.uniform() < self.augment.spec.rare_class_sampling:
                index, wanted = self._rare.draw(own)
        sample = self.augment(sample_of(self.dataset, index), rng, wanted)
        return self._mixed(sample, rng)

    def _mixed(self, sample: Sample, rng: Rng) -> Sample:
        """The crop with parts of other images, if the recipe and the draw have it so."""
        spec = self.augment.spec
        own = stream(rng, COPY_PASTE)
        if self._donors is not None and own.uniform() < spec.chance:
            index, wanted = self._donors.draw(own)
            other = self.augment(
                sample_of(self.dataset, index), stream(rng, PARTNER + COPY_PASTE), wanted
            )
            sample = CopyPaste(tuple(self._donors.classes)).apply(sample, other)
        own = stream(rng, CUTMIX)
        change = CutMix.draw(spec, own) if spec.cutmix else None
        if change is not None:
            index = int(own.integers(len(self.dataset)))
            other = self.augment(sample_of(self.dataset, index), stream(rng, PARTNER + CUTMIX))
            sample = change.apply(sample, other)
        return sample


class _Batches:
    """A DataLoader whose workers live in a ``with`` block and end with it, however it ends.

    They ignore signals, so Python would wait for ever at exit for workers that nobody ended.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader, self._iterator, self._entered = loader, None, False

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()
        if error is not None and worker_died(error):
            raise HfgdError(f"{WORKER_DIED}.") from error

    def read(self) -> Iterator[Any]:
        """What the loader gives; raises the HfgdError of a worker."""
        iterator = self._started()
        for item in iterator:
            if isinstance(item, HfgdError):
                raise item
            yield item

    def _close(self) -> None:
        """End the workers; one that does not answer is killed."""
        iterator: Any = self._iterator
        self._iterator, self.loader._iterator, self._entered = None, None, False
        if not hasattr(iterator, "_workers"):  # this process reads by itself
            return
        try:
            iterator._shutdown_workers()
        finally:
            for worker in iterator._workers:
                if worker.is_alive():
                    worker.kill()
                    worker.join()

    def _started(self) -> Any:
        """The loader's iterator; with workers, they run."""
        assert self._entered or not self.loader.num_workers, "workers need a with block"
        try:
            self._iterator = iter(self.loader)  # type: ignore[assignment]
            return self._iterator
        except OSError as error:
            reason = str(error)
        # outside of the block, where nothing holds the workers that did start
        raise HfgdError(f"cannot start the workers that read images ({reason}): {MORE_SHARED}.")


class TrainBatches(_Batches):
    """Batches of a stream from iteration ``start`` on, without an end.

    ``batch_size`` counts the samples of one process; process ``rank`` of ``world`` takes its
    share of each iteration's consecutive samples, so the global batch does not depend on them.
    """

    def __init__(
        self, stream: TrainStream, batch_size: int, start: int, workers: int, rank: int, world: int
    ) -> None:
        super().__init__(
            DataLoader(
                stream,
                batch_sampler=_Iterations(batch_size, start, rank, world),
                num_workers=workers,
                collate_fn=_collate,
                worker_init_fn=_begin_worker,
                pin_memory=torch.cuda.is_available(),
            )
        )

    def __iter__(self) -> Iterator[Batch]:
        yield from self.read()


def _begin_worker(number: int) -> None:
    """Schedulers send SIGTERM to every process of a run. The main one still needs batches to finish
    its iteration and save; then it ends its workers."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    begin_worker()


def worker_died(error: BaseException) -> bool:
    """Whether PyTorch raised this because a worker of a loader died."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    """A worker's tensor in shared memory.

    PyTorch would move it there in a thread whose errors nobody sees, and the batch would never come.
    """
    if get_worker_info() is None:
        return tensor
    try:
        tensor.share_memory_()  # type: ignore[no-untyped-call]
        return tensor
    except RuntimeError as error:
        reason = str(error).rsplit(": ", 1)[-1]
        raise HfgdError(
            f"not enough shared memory (/dev/shm) to pass images between processes ({reason}): "
            f"{MORE_SHARED}."
        ) from error


class _Iterations:
    """The sample numbers of each iteration, for one process."""

    def __init__(self, batch_size: int, start: int, rank: int, world: int) -> None:
        self.batch_size, self.start, self.rank, self.world = batch_size, start, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        iteration = self.start
        while True:
            first = (iteration * self.world + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))
            iteration += 1


def _collate(samples: Sequence[Sample | HfgdError]) -> Batch | HfgdError:
    for sample in samples:
        if isinstance(sample, HfgdError):
            return sample
    images, labels, names = zip(*samples, strict=True)
    try:
        return Batch(_shared(torch.stack(images)), _shared(torch.stack(labels)), list(names))
    except HfgdError as error:
        return error


def _one(sample: Sample | HfgdError) -> Sample | HfgdError:
    if isinstance(sample, HfgdError):
        return sample
    try:
        return Sample(_shared(sample.image), _shared(sample.label), sample.name)
    except HfgdError as error:
        return error


class EvalBatches(_Batches):
    """Every image once, whole and at its own size, one by one; images of this process only.

    ``keep``: the workers stay for the next pass.
    """

    def __init__(
        self,
        dataset: SegDataset,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        keep: bool = False,
    ) -> None:
        self.indices = range(rank, len(dataset), world)
        super().__init__(
            DataLoader(
                _Plain(dataset, self.indices),
                batch_size=None,
                num_workers=workers,
                collate_fn=_one,  # type: ignore[arg-type]  # one sample: no list without a batch size
                persistent_workers=keep and workers > 0,
                worker_init_fn=_begin_worker,
                pin_memory=torch.cuda.is_available(),
            )
        )

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Sample]:
        yield from self.read()


class _Plain(Dataset[Sample | HfgdError]):
    def __init__(self, dataset: SegDataset, indices: range) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Sample | HfgdError:
        try:
            return sample_of(self.dataset, self.indices[position])
        except HfgdError as error:
            return error
