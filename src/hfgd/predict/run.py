"""Reading ahead in threads of their own, a few images in hand whatever their number."""

import gc
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

from hfgd.data.images import Met, Pixels, describe_extras
from hfgd.data.prediction import Prediction
from hfgd.errors import HfgdError
from hfgd.files import is_disk_full
from hfgd.inference.confidence import ConfidenceConfig, label
from hfgd.inference.labeller import InferenceConfig, Labeller, open_labeller
from hfgd.predict.image_rows import ImageRow, RowWriter, count_classes
from hfgd.predict.inputs import WHOLE, Failed, InputImage, find_images, read_item
from hfgd.predict.large_files import LargeFileConfig, is_large, label_large, named, results
from hfgd.predict.manifest import merge
from hfgd.predict.shards import Shard
from hfgd.predict.storage import Folder, is_address, open_place
from hfgd.predict.writer import Writer, claim, server_ids, submission_names, zip_files
from hfgd.progress import Progress

T = TypeVar("T")
R = TypeVar("R")
IN_HAND = 4  # images that are read ahead, and results that wait to be written


class Readers:
    """Threads that work in the order of asking. One that hangs (a network file system may never
    answer) is left behind and replaced; it does not keep the program from ending."""

    def __init__(self, count: int) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._count = count
        for _ in range(count):
            self.replace()

    def replace(self) -> None:
        """Another thread, in place of one that hangs."""
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, work: Callable[[], R]) -> "Future[R]":
        """Begin some work when its turn comes."""
        future: Future[R] = Future()
        self._tasks.put((future, work))
        return future

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, work = task
            try:
                result = work()
            except BaseException as error:
                future.set_exception(
                    error.with_traceback(None)
                )  # whose frames would hold the image
            else:
                future.set_result(result)
                del result
            del task, future, work

    def __enter__(self) -> "Readers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for _ in range(self._count):
            self._tasks.put(None)


def ahead(
    readers: Readers, work: Callable[[T], R], items: Sequence[T], in_hand: int = IN_HAND
) -> Iterator[tuple[T, "Future[R]"]]:
    """Each item with its work, a few of them begun before they are asked for."""
    begun: deque[tuple[T, Future[R]]] = deque()
    for item in items:
        begun.append((item, readers.submit(lambda item=item: work(item))))  # type: ignore[misc]
        if len(begun) > in_hand:
            yield begun.popleft()
    while begun:
        yield begun.popleft()


# ---- the command ---------------------------------------------------------------------------------


EVERYTHING = LargeFileConfig()
PATIENCE = 300.0  # seconds that an image may take to be read
CONNECTIONS = 8  # images that are asked of an address at once


@dataclass
class PredictOutcome:
    """How many images were labelled, or had been before; a sentence for each failure and warning."""

    done: int = 0
    before: int = 0
    failed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # what was not read of the images


def predict_files(
    model_path: str,
    inputs: Sequence[str | Path],
    out: str | Path,
    how: InferenceConfig,
    opacity: float = 0.5,
    server: str | None = None,
    shard: Shard = WHOLE,
    extent: LargeFileConfig = EVERYTHING,
    sure: ConfidenceConfig | None = None,
) -> PredictOutcome:
    """Write ``out/labels`` and ``out/overlays``; an image that fails is passed over and named.

    What an earlier call with the same model and settings finished is not done again. ``server``: also
    write what the test server of 'cityscapes' or 'ade20k' takes, as ``out/submission`` and
    ``out/submission.zip``: the image's own name, the data set's own ids. ``shard``: only that share
    of the images, whose manifest waits for ``merge``. ``extent``: of large TIFFs and films. ``sure``:
    what is wanted of the model's confidence. Raises HfgdError where ``out`` holds results of another
    model or of other settings.
    """
    broken: list[Failed] = []
    items = named(find_images(inputs, broken, shard), extent)
    place = open_place(out)
    sent: dict[InputImage, str] = {}
    if server is not None:
        if shard.count > 1 or not isinstance(place, Folder):
            raise HfgdError("--server needs one process and a folder as --out.")
        sent = submission_names(items)
    labeller = open_labeller(model_path, how)
    ids = None if server is None else server_ids(server, len(labeller.classes))
    more = extent.settings()
    if sure is not None:
        large = next((item for item in items if is_large(item)), None)
        if large is not None:
            raise HfgdError(
                f"--confidence and --min-confidence are for images that are read whole, and "
                f"'{large.source}' is not; label it in a call of its own."
            )
        sure = sure.of(model_path, labeller, server)
        more |= sure.settings()
    claim(place, model_path, labeller, opacity, more)
    rows = RowWriter(place, shard)
    written = sure is not None and sure.written
    writer = Writer(place, opacity, rows, ids, sent, extent.overlays, written)
    try:
        outcome = _label_all(labeller, items, writer, broken, extent, sure)
        rows.close(len(items), broken)
    finally:
        rows.leave()
    if ids is not None and isinstance(place, Folder):
        done = [item for item in items if writer.is_done(item, results(item, extent.overlays))]
        zip_files(
            [place.path(f"submission/{sent[item]}") for item in done], place.path("submission.zip")
        )
    if shard.count == 1:
        merge(out)
    return outcome


def _label_all(
    labeller: Labeller,
    items: Sequence[InputImage],
    writer: Writer,
    failed: list[Failed],
    extent: LargeFileConfig,
    sure: ConfidenceConfig | None,
) -> PredictOutcome:
    """Label what is not done yet; what fails is added to ``failed``."""
    missing = [item for item in items if not writer.is_done(item, results(item, extent.overlays))]
    outcome = PredictOutcome(
        before=len(items) - len(missing), failed=[entry.reason for entry in failed]
    )
    start = outcome.before
    # an archive is read in order, whether here or at an address
    remote = any(is_address(item.source) for item in missing if isinstance(item.source, str))
    threads, in_hand = (CONNECTIONS, 2 * CONNECTIONS) if remote else (1, IN_HAND)

    def finish(number: int, item: InputImage, pending: "Future[None]") -> None:
        reason = _failure(item, pending)
        if reason is None:
            outcome.done += 1
        else:
            outcome.failed.append(reason)
            failed.append(Failed(str(item.source), reason, item.target))
        progress.update(start + number, item.target)

    with (
        Progress("labelling", len(items), start) as progress,
        Readers(threads) as reading,
        ThreadPoolExecutor(1) as writing,
    ):
        written: deque[tuple[int, InputImage, Future[None]]] = deque()
        pixels = ahead(reading, partial(_read, extras=writer.extras), missing, in_hand)
        for number, (item, read) in enumerate(pixels, start=1):
            result: tuple[Prediction, ImageRow] | Future[None]
            if is_large(item):
                result = _large(labeller, item, writer, extent)
            else:
                result = _labelled(labeller, item, read, reading, sure)
            if isinstance(result, Future):
                written.append((number, item, result))
            else:
                written.append((number, item, writing.submit(writer, item, *result)))
            del result
            while len(written) > IN_HAND:
                finish(*written.popleft())
        while written:
            finish(*written.popleft())
    outcome.warnings = describe_extras(writer.extras, len(missing), "images")
    return outcome


def _read(item: InputImage, extras: list[str]) -> Pixels | None:
    if is_large(item):
        return None
    met = Met()
    pixels = read_item(item, met)
    extras += met.extras
    return pixels


def _large(
    labeller: Labeller, item: InputImage, writer: Writer, extent: LargeFileConfig
) -> "Future[None]":
    """A future that holds why an item could not be labelled, or nothing."""
    ended: Future[None] = Future()
    try:
        label_large(labeller, item, writer, extent)
        ended.set_result(None)
    except Exception as error:
        ended.set_exception(error.with_traceback(None))
        _free(error)
    return ended


def _labelled(
    labeller: Labeller,
    item: InputImage,
    read: "Future[Pixels | None]",
    reading: Readers,
    sure: ConfidenceConfig | None,
) -> "tuple[Prediction, ImageRow] | Future[None]":
    """The prediction of an image with its row, or a future that holds why there is none."""
    failed: Future[None] = Future()
    try:
        pixels = read.result(PATIENCE)
        assert pixels is not None
        found = label(labeller, pixels, sure)
        counts = count_classes(found.labels, len(labeller.classes))
        size = (pixels.shape[0], pixels.shape[1])
        row = ImageRow(
            item.target, str(item.source), *size, found.seconds, found.confidence, counts
        )
        return Prediction(pixels, found.labels, labeller.classes, found.sure), row
    except Late:
        reading.replace()
        failed.set_exception(
            HfgdError(f"'{item.source}' gave nothing for {PATIENCE:.0f} seconds and was left.")
        )
        return failed
    except Exception as error:  # one image of many: _failure says it, and the next one is tried
        failed.set_exception(error.with_traceback(None))  # whose frames would hold the image
        _free(error)
    return failed


def _failure(item: InputImage, pending: "Future[None]") -> str | None:
    """Why an image failed, in one sentence; None where it did not. A full disk ends the whole."""
    error = pending.exception()
    if error is None:
        return None
    if is_disk_full(error):
        raise error
    if isinstance(error, HfgdError):
        return str(error)
    text = " ".join(str(error).split())
    if _of_memory(error):
        return (
            f"'{item.source}': not enough memory for an image of its size; "
            "try --protocol slide, which takes it in windows, or scale it down."
        )
    return f"'{item.source}': {type(error).__name__}: {text[:200]}"


def _of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "memory" in str(error).lower()


def _free(error: Exception) -> None:
    """Give memory back after an image that did not fit; other failures, of which a folder may have
    thousands, are not worth the tenth of a second."""
    if not _of_memory(error):
        return
    gc.collect()
    torch = sys.modules.get("torch")  # an exported file runs without
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
