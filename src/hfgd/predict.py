"""``hfgd predict``: label PNGs and overlays for images and folders of images.

Reading and writing overlap with the network, in threads of their own, with a few images in hand
whatever their number.
"""

import gc
import json
import sys
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from hfgd.data.draw import Prediction
from hfgd.data.images import Pixels, images_below, read_image, without_suffix
from hfgd.data.known.cityscapes import LABEL_IDS
from hfgd.errors import HfgdError, unknown
from hfgd.files import is_disk_full, write_text, write_whole
from hfgd.inference.exported import FileLabeller
from hfgd.inference.labeller import Labeller
from hfgd.inference.open import How, open_labeller, origin
from hfgd.progress import Progress

T = TypeVar("T")
R = TypeVar("R")
IN_HAND = 4  # images that are read ahead, and results that wait to be written


@dataclass
class Outcome:
    """How many images were labelled, how many had been before, and one sentence for each failure."""

    done: int = 0
    before: int = 0
    failed: list[str] = field(default_factory=list)


def predict_files(
    model_path: str,
    inputs: Sequence[Path],
    out: Path,
    how: How,
    opacity: float = 0.5,
    server: str | None = None,
    sure: "Sure | None" = None,
) -> Outcome:
    """Write ``out/labels`` and ``out/overlays``; an image that fails is passed over and named.

    What an earlier call with the same model and settings finished is not done again. ``server``: also
    write what the test server of 'cityscapes' or 'ade20k' takes, as ``out/submission`` and
    ``out/submission.zip``: the image's own name, the data set's own ids. ``sure``: what is wanted of
    the model's confidence. Raises HfgdError where ``out`` holds results of another model or of other
    settings.
    """
    files = find_images(inputs)
    sent = {} if server is None else submission_names([source for source, _ in files])
    labeller = open_labeller(model_path, how)
    ids = None if server is None else _server_ids(server, len(labeller.classes))
    if sure is not None:
        sure = sure.of(model_path, labeller, server)
    claim(out, model_path, labeller, opacity, sure)
    writer = Writer(out, opacity, ids, sent, sure is not None and sure.written)
    missing = [(source, target) for source, target in files if not writer.is_done(source, target)]
    outcome = Outcome(before=len(files) - len(missing))
    start = outcome.before

    def finish(number: int, source: Path, pending: "Future[None]") -> None:
        reason = _failure(source, pending)
        if reason is None:
            outcome.done += 1
        else:
            outcome.failed.append(reason)
        progress.update(start + number, source.name)

    with (
        Progress("labelling", len(files), start) as progress,
        ThreadPoolExecutor(1) as reading,
        ThreadPoolExecutor(1) as writing,
    ):
        written: deque[tuple[int, Path, Future[None]]] = deque()
        ahead = _ahead(reading, lambda item: read_image(item[0]), missing)
        for number, ((source, target), read) in enumerate(ahead, start=1):
            result = _labelled(labeller, read, sure)
            if isinstance(result, Future):
                written.append((number, source, result))
            else:
                written.append((number, source, writing.submit(writer, source, target, result)))
            while len(written) > IN_HAND:
                finish(*written.popleft())
        while written:
            finish(*written.popleft())
    if ids is not None:
        done = [out / "submission" / sent[s] for s, target in files if writer.is_done(s, target)]
        _zip(done, out / "submission.zip")
    return outcome


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[T], R], items: Sequence[T]
) -> Iterator[tuple[T, "Future[R]"]]:
    """Each item with its work, a few of them begun before they are asked for."""
    begun: deque[tuple[T, Future[R]]] = deque()
    for item in items:
        begun.append((item, pool.submit(work, item)))
        if len(begun) > IN_HAND:
            yield begun.popleft()
    yield from begun


@dataclass(frozen=True)
class Sure:
    """What is wanted of the model's confidence.

    ``written``: as ``out/confidence``; ``minimum``: pixels of which the model is less sure are void;
    ``temperature``: the model's own, which ``of`` finds.
    """

    written: bool = False
    minimum: float = 0.0
    temperature: float = 1.0

    def of(self, model_path: str, labeller: Labeller, server: str | None) -> "Sure":
        """The same with the model's temperature; raises HfgdError where void pixels cannot be, and
        where the model or the installation gives no confidence.
        """
        from hfgd.inference.calibrate import read_temperature

        if find_spec("torch") is None:
            raise HfgdError(
                "--confidence and --min-confidence need PyTorch, which is not installed."
            )
        if isinstance(labeller, FileLabeller) and not labeller.gives_scores:
            raise HfgdError(
                f"'{model_path}' gives labels alone, without confidence; export it with --logits."
            )
        if self.minimum and server is not None:
            raise HfgdError(
                "--min-confidence leaves pixels void, which a test server does not take; "
                "leave out one of --min-confidence and --server."
            )
        return replace(self, temperature=read_temperature(model_path, labeller))


def _predicted(labeller: Labeller, pixels: Pixels, sure: Sure | None) -> Prediction:
    if sure is None:
        return Prediction(pixels, labeller(pixels), labeller.classes)
    import torch

    from hfgd.inference.calibrate import with_confidence

    image = torch.from_numpy(pixels).permute(2, 0, 1)
    maps = labeller.reduced(image, with_confidence(sure.temperature, sure.minimum))
    labels, confidence = maps.permute(2, 0, 1).contiguous().cpu().numpy()
    return Prediction(pixels, labels, labeller.classes, confidence)


def _labelled(
    labeller: Labeller, read: "Future[Pixels]", sure: Sure | None
) -> "Prediction | Future[None]":
    """The prediction of an image, or a future that holds why there is none."""
    failed: Future[None] = Future()
    try:
        return _predicted(labeller, read.result(), sure)
    except Exception as error:  # one image of many: _failure says it, and the next one is tried
        failed.set_exception(error.with_traceback(None))  # whose frames would hold the image
    _free()
    return failed


def _failure(source: Path, pending: "Future[None]") -> str | None:
    """Why an image failed, in one sentence; None where it did not. A full disk ends the whole."""
    error = pending.exception()
    if error is None:
        return None
    if is_disk_full(error):
        raise error
    if isinstance(error, HfgdError):
        return str(error)
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "memory" in text.lower():
        return (
            f"'{source}': not enough memory for an image of its size; "
            "try --protocol slide, which takes it in windows, or scale it down."
        )
    return f"'{source}': {type(error).__name__}: {text[:200]}"


def _free() -> None:
    gc.collect()
    torch = sys.modules.get("torch")  # an exported file runs without
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


class Writer:
    """Writes what belongs to one image; each file whole, the label map last."""

    def __init__(
        self,
        out: Path,
        opacity: float,
        server_ids: Pixels | None,
        sent: Mapping[Path, str],
        confidence: bool = False,
    ) -> None:
        self.out, self.opacity, self.server_ids, self.sent = out, opacity, server_ids, sent
        self.confidence = confidence

    def __call__(self, source: Path, target: Path, result: Prediction) -> None:
        # an overlay is for looking at: quickly written, a little larger
        save_png(result.overlay(self.opacity), self.out / "overlays" / target, compress_level=1)
        if self.server_ids is not None:
            submission = Image.fromarray(self.server_ids[result.labels])
            save_png(submission, self.out / "submission" / self.sent[source])
        if self.confidence and result.confidence is not None:
            save_png(Image.fromarray(result.confidence), self.out / "confidence" / target)
        save_png(result.label_image(), self.out / "labels" / target)

    def is_done(self, source: Path, target: Path) -> bool:
        """Whether an earlier call wrote everything of this image, as it is now."""
        files = [self.out / "labels" / target, self.out / "overlays" / target]
        if self.server_ids is not None:
            files.append(self.out / "submission" / self.sent[source])
        if self.confidence:
            files.append(self.out / "confidence" / target)
        changed = source.stat().st_mtime_ns
        return all(file.is_file() and file.stat().st_mtime_ns >= changed for file in files)


def save_png(image: Image.Image, path: Path, **options: int) -> None:
    """Write a PNG whole, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda part: image.save(part, "PNG", **options))


def claim(
    out: Path, model_path: str, labeller: Labeller, opacity: float, sure: Sure | None = None
) -> None:
    """Say in ``out/predict.json`` what made the results; raises HfgdError where it was another."""
    weights = origin(model_path).weights
    state = weights.stat()
    settings = {
        "model": str(weights.resolve()),
        "bytes": state.st_size,
        "written": state.st_mtime_ns,
        "protocol": labeller.protocol.model_dump(mode="json"),
        "branch": labeller.branch,
        "precision": labeller.precision,
        "opacity": opacity,
    }
    if sure is not None:
        settings["confidence"], settings["min_confidence"] = sure.written, sure.minimum
        settings["temperature"] = sure.temperature
    file = out / "predict.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != settings:
        raise HfgdError(
            f"'{out}' holds results of another model or of other settings (see {file}); "
            "choose another --out, or delete the folder."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(settings, indent=1) + "\n")


def _server_ids(server: str, num_classes: int) -> Pixels:
    """The id that a server wants for each class index."""
    tables = {"cityscapes": LABEL_IDS, "ade20k": range(1, 151)}
    if server not in tables:
        raise unknown("server format", server, tables)
    if num_classes != len(tables[server]):
        raise HfgdError(
            f"{server} has {len(tables[server])} classes, and the model knows {num_classes}; "
            "use a model that was trained on it."
        )
    return np.array(tables[server], dtype=np.uint8)


def submission_names(sources: Sequence[Path]) -> dict[Path, str]:
    """The file name of each image in a submission: its own, as a PNG, without folders.

    Raises HfgdError where two images would have one name.
    """
    by_name: dict[str, Path] = {}
    for source in sources:
        name = f"{without_suffix(source).name}.png"
        if name in by_name:
            raise HfgdError(
                f"'{by_name[name]}' and '{source}' would both be '{name}' in the submission, which "
                "has no folders; rename one, or label them in two calls with an --out of each."
            )
        by_name[name] = source
    return {source: name for name, source in by_name.items()}


def _zip(files: Sequence[Path], path: Path) -> None:
    """These files in a zip, without folders."""

    def write(part: Path) -> None:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.name)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, write)


def find_images(inputs: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Every image with the relative path (.png) its results go to.

    A folder's structure is kept; of several inputs each folder keeps its own name on top. Where
    two images would land on one name, both keep their suffix in it.
    """
    found: list[tuple[Path, Path]] = []
    for entry in inputs:
        if entry.is_dir():
            top = Path(entry.resolve().name) if len(inputs) > 1 else Path()
            images = images_below(entry)
            if not images:
                raise HfgdError(f"there are no images in '{entry}'.")
            found += [(path, top / path.relative_to(entry)) for path in images]
        elif entry.is_file():
            found.append((entry, Path(entry.name)))
        else:
            raise HfgdError(f"there is no image or folder '{entry}'.")
    bare = [without_suffix(target) for _, target in found]
    uses = Counter(bare)
    placed: list[tuple[Path, Path]] = []
    for (source, target), name in zip(found, bare, strict=True):
        kept = target.name.removeprefix(name.name) if uses[name] > 1 else ""  # '.jpg', or nothing
        placed.append((source, Path(f"{name}{kept.replace('.', '_')}.png")))
    twice = [target for target, uses in Counter(t for _, t in placed).items() if uses > 1]
    if twice:
        raise HfgdError(
            f"two of the images would both be written to '{twice[0]}'; "
            "rename one, or predict them into two folders."
        )
    return placed
