"""Films: label frames and an overlay film, through PyAV (``hfgd[video]``), a frame at a time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hfgd.data.images import Pixels
from hfgd.data.prediction import Prediction
from hfgd.errors import HfgdError
from hfgd.files import write_whole
from hfgd.inference.confidence import label
from hfgd.inference.labeller import Labeller
from hfgd.parse import refuse_special
from hfgd.predict.image_rows import ImageRow, count_classes, label_of_png
from hfgd.predict.inputs import InputImage
from hfgd.predict.storage import Folder
from hfgd.predict.writer import Writer, save_png

# Playlists, which name further files and addresses, are not read, whatever a file is called.
SAFE = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo",
    "protocol_whitelist": "file",
}
KEPT = (".mp4", ".mov", ".m4v", ".mkv")  # containers that take H.264 and most sounds; others: .mkv


def film_name(item: InputImage) -> str:
    """The overlay film of a film: below overlays/."""
    suffix = Path(str(item.source)).suffix.lower()
    return item.target.removesuffix(".png") + (suffix if suffix in KEPT else ".mkv")


def label_video(labeller: Labeller, item: InputImage, writer: Writer, every: int = 1) -> None:
    """Write ``labels/NAME/000000.png`` … for every ``every``-th frame and ``overlays/NAME.mp4``.

    The overlay film has all frames at their own times (also of a film without a constant rate) and
    the sound as it was; a frame without labels of its own shows the last ones. Frames that an
    earlier call labelled are not labelled again. What is to be shown turned, as a phone held upright
    says, is turned before it is labelled. Raises HfgdError for what is no film.
    """
    if not isinstance(writer.place, Folder):
        raise HfgdError(f"'{item.source}' is a film, which needs a folder as --out.")
    path = str(item.source)
    refuse_special(path)
    av = _library(path)
    target = writer.place.path(f"overlays/{film_name(item)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    frames = _Frames(labeller, item, writer, every)
    kind = "matroska" if target.suffix == ".mkv" else "mp4"

    def write(part: Path) -> None:
        turns = _quarter_turns(av, path)
        with _opened(av, path) as source, av.open(str(part), "w", format=kind) as sink:
            _transcode(source, sink, frames, turns)

    try:
        write_whole(target, write)
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in (27, 28, 122):
            raise  # a full disk
        raise HfgdError(
            f"film '{path}' is broken, or holds what cannot be written into '{target.name}' "
            f"({' '.join(str(error).split())})."
        ) from error


def _library(path: str) -> Any:
    try:
        import av
        import av.error
    except ImportError as error:
        raise HfgdError(
            f"'{path}' is a film and read by PyAV; pip install 'hfgd[video]'."
        ) from error
    return av


@contextmanager
def _opened(av: Any, path: str) -> Iterator[Any]:
    with av.open(path, options=SAFE) as source:
        if not source.streams.video:
            raise HfgdError(f"'{path}' holds no pictures.")
        yield source


def _quarter_turns(av: Any, path: str) -> int:
    """How often a player turns the pictures a quarter counterclockwise."""
    with _opened(av, path) as source:
        first = next(source.decode(video=0), None)
        return 0 if first is None else round(first.rotation / 90) % 4


def _transcode(source: Any, sink: Any, frames: "_Frames", turns: int) -> None:
    """Packets in the file's own order, so that sound and pictures stay side by side."""
    pictures = source.streams.video[0]
    pictures.thread_type = "AUTO"
    out = _picture_stream(sink, pictures, turns)  # all streams before the first packet
    sounds = {s.index: sink.add_stream_from_template(s) for s in source.streams.audio}
    for packet in source.demux([pictures, *source.streams.audio]):
        if packet.stream.type == "audio":
            if packet.dts is not None:  # an empty one ends the stream
                packet.stream = sounds[packet.stream.index]
                sink.mux(packet)
            continue
        for frame in packet.decode():
            upright = np.rot90(frame.to_ndarray(format="rgb24"), turns)
            shown = type(frame).from_ndarray(
                frames.overlay(np.ascontiguousarray(upright)), format="rgb24"
            )
            shown.pts, shown.time_base = frame.pts, frame.time_base
            sink.mux(out.encode(shown.reformat(out.width, out.height, out.pix_fmt)))
    if not frames.number:
        raise HfgdError(f"'{source.name}' holds no picture that can be decoded.")
    sink.mux(out.encode())


def _picture_stream(sink: Any, pictures: Any, turns: int) -> Any:
    out = sink.add_stream("libx264", rate=pictures.average_rate or 25)
    size = pictures.width, pictures.height
    out.width, out.height = size[::-1] if turns % 2 else size
    even = out.width % 2 == out.height % 2 == 0
    out.pix_fmt = "yuv420p" if even else "yuv444p"
    out.codec_context.time_base = out.time_base = pictures.time_base
    out.options = {"crf": "20", "preset": "veryfast"}
    return out


class _Frames:
    """The frames of a film as they pass: counted, labelled, drawn over."""

    def __init__(self, labeller: Labeller, item: InputImage, writer: Writer, every: int) -> None:
        self.labeller, self.item, self.writer, self.every = labeller, item, writer, every
        self.number = 0
        self.labels: Pixels | None = None

    def overlay(self, pixels: Pixels) -> Pixels:
        """The next frame, (H, W, 3) uint8 RGB, with its labels over it."""
        if self.number % self.every == 0:
            self.labels = self._label(pixels)
        self.number += 1
        assert self.labels is not None
        picture = Prediction(pixels, self.labels, self.labeller.classes)
        return np.asarray(picture.overlay(self.writer.opacity, legend=False))

    def _label(self, pixels: Pixels) -> Pixels:
        place, path = self.writer.place, str(self.item.source)
        name = f"{self.item.target.removesuffix('.png')}/{self.number:06}.png"
        if place.is_newer(f"labels/{name}", path):
            before = label_of_png(place.read(f"labels/{name}"))
            if before is not None and before.shape == pixels.shape[:2]:
                return before
        began = time.perf_counter()
        found = label(self.labeller, pixels)
        counts = count_classes(found.labels, len(self.labeller.classes))
        height, width = found.labels.shape
        source = f"{path}#{self.number}"
        seconds = time.perf_counter() - began
        self.writer.rows.add(
            ImageRow(name, source, height, width, seconds, found.confidence, counts)
        )
        picture = Prediction(pixels, found.labels, self.labeller.classes)
        save_png(picture.label_image(), place, f"labels/{name}")
        return found.labels
