"""One model that labels images of requests, in bounded time and memory."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Protocol

import numpy as np
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import Message

from hfgd.data.classes import ClassSet
from hfgd.data.images import Pixels
from hfgd.data.prediction import Prediction
from hfgd.errors import HfgdError
from hfgd.progress import say
from hfgd.serve.limits import DECODING, Limits, Memory, Refused, decoded, measured
from hfgd.types import Size

OVERLAY = "image/png;profile=overlay"
QUIET = 5.0  # seconds without a byte of a body after which it is given up
SLOWEST = 100_000  # bytes a second of a body, on average after the first seconds
AT_WORK = 3  # images that are read, labelled and written at once, one of each


GONE = Refused(499, "the client has hung up.")


class Labels(Protocol):
    """What the service needs of a Labeller."""

    classes: ClassSet

    def __call__(self, pixels: Pixels) -> Pixels:
        """(H, W, 3) uint8 RGB → class ids (H, W) uint8."""


class Service:
    """One model, one image at a time; a bounded number of requests in hand.

    ``needed``: bytes that the model needs for an image of a size; ``only``: the one size it takes.
    """

    def __init__(
        self,
        labeller: Labels,
        limits: Limits,
        needed: Callable[[Size], int] | None = None,
        only: Size | None = None,
    ) -> None:
        self.labeller, self.limits, self.only = labeller, limits, only
        self._needed = needed or (lambda size: 0)
        self.in_hand = 0
        self._memory = Memory(limits.memory)
        self._labelling = threading.Lock()  # a runtime uses the cores itself
        self._work = ThreadPoolExecutor(AT_WORK, "image")
        self._headers = ThreadPoolExecutor(1, "header")  # a refusal waits for no network
        self.registry = CollectorRegistry()
        self.answers = Counter(
            "hfgd_answers", "Answers to /predict by status", ["status"], registry=self.registry
        )
        self.seconds = Histogram(
            "hfgd_seconds", "Seconds from the last byte to the answer", registry=self.registry
        )
        gauge = Gauge("hfgd_in_hand", "Requests that wait or are worked on", registry=self.registry)
        gauge.set_function(lambda: self.in_hand)

    async def answer(self, request: Request) -> Response:
        """The answer to a request, in time; raises Refused."""
        kind = wanted(request.headers.get("accept", "*/*"))
        with self._place():
            try:
                async with asyncio.timeout(self.limits.seconds):
                    content = await self._image(request)
                    began = time.perf_counter()
                    response = await _unless_gone(request, self._answered(content, kind))
                    self.seconds.observe(time.perf_counter() - began)
                    return response
            except TimeoutError as error:
                sentence = f"no answer within {self.limits.seconds:g} seconds; try a smaller image."
                raise Refused(504, sentence) from error
            except MemoryError as error:
                raise _too_large() from error

    async def _answered(self, content: bytes, kind: str) -> Response:
        loop = asyncio.get_running_loop()
        given_up = threading.Event()
        try:
            size = await loop.run_in_executor(self._headers, measured, content, self.limits)
            needed = self._bytes(size)
            return await loop.run_in_executor(
                self._work, self._worked, content, kind, needed, given_up
            )
        finally:
            given_up.set()  # a thread cannot be stopped, but begins nothing more

    def _worked(
        self, content: bytes, kind: str, needed: int, given_up: threading.Event
    ) -> Response:
        """Read, label and write one image, in a thread; each step only while it is wanted."""
        with self._memory.share(needed):
            _still_wanted(given_up)
            pixels = decoded(content, self.limits)
            with self._labelling:
                _still_wanted(given_up)
                labels = self._labels(pixels)
            _still_wanted(given_up)
            return answered(Prediction(pixels, labels, self.labeller.classes), kind)

    def _labels(self, pixels: Pixels) -> Pixels:
        try:
            return self.labeller(pixels)
        except HfgdError as error:  # it names files of this machine: for the log alone
            say(f"serve: {error}")
            size = "×".join(map(str, pixels.shape[:2]))
            sentence = f"the model cannot label an image of {size} (height × width)."
            raise Refused(422, sentence) from error
        except RuntimeError as error:  # PyTorch's way to run out of memory
            if any(word in str(error).lower() for word in ("memory", "alloc")):
                raise _too_large() from error
            raise

    def _bytes(self, size: Size) -> int:
        """What an image needs; raises Refused for one that the model or the memory does not take."""
        if self.only is not None and size not in (self.only, self.only[::-1]):  # EXIF may turn it
            height, width = self.only
            raise Refused(
                422,
                f"this model takes images of {height}×{width} (height × width) only, not "
                f"{size[0]}×{size[1]}.",
            )
        needed = self._needed(size) + DECODING * size[0] * size[1]
        if needed > self.limits.memory:
            raise Refused(
                413,
                f"an image of {size[0]}×{size[1]} (height × width) needs about "
                f"{max(1, needed // 10**6):,} MB in this model, and at most "
                f"{self.limits.memory // 10**6:,} MB are given; scale it down.",
            )
        return needed

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self.in_hand >= self.limits.queue:
            raise Refused(429, f"{self.in_hand} requests are in hand already; try again later.")
        self.in_hand += 1
        try:
            yield
        finally:
            self.in_hand -= 1

    async def _image(self, request: Request) -> bytes:
        """The image file in a request, read no further than the limit."""
        most = self.limits.bytes
        told = request.headers.get("content-length", "0")
        content = bytearray()
        refused = Refused(413, f"a request has at most {most:,} bytes; scale the image down.")
        if not told.isdecimal() or int(told) > most:
            raise refused
        loop, parts = asyncio.get_running_loop(), aiter(request.stream())
        began = loop.time()
        try:
            while True:
                now, patience = loop.time(), began + QUIET + len(content) / SLOWEST
                async with asyncio.timeout_at(min(now + QUIET, patience)):
                    content += await anext(parts)
                if len(content) > most:
                    raise refused
        except StopAsyncIteration:
            pass
        except TimeoutError as error:
            raise Refused(408, "the image arrives too slowly; send it again.") from error
        except ClientDisconnect as error:
            raise GONE from error
        whole = bytes(content)
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            whole = await _field(request, whole)
        if not whole:
            raise Refused(400, "the request holds no image: send its bytes, or a field 'image'.")
        return whole


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """What comes of ``work``, which is cancelled when the client hangs up; raises Refused then."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise GONE
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _hung_up(request: Request) -> None:
    """Wait until the client of a request, whose body is read, hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _still_wanted(given_up: threading.Event) -> None:
    if given_up.is_set():
        raise GONE


def _too_large() -> Refused:
    return Refused(413, "not enough memory for an image of this size; scale it down.")


async def _field(request: Request, content: bytes) -> bytes:
    """The multipart field 'image' of a body that was read already."""

    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    try:
        async with Request(request.scope, receive).form(max_files=4, max_fields=16) as form:
            field = form.get("image")
            return await field.read() if isinstance(field, UploadFile) else b""
    except Exception as error:  # the parser has several, among them HTTPException
        raise Refused(400, "the multipart form cannot be read.") from error


def wanted(accept: str) -> str:
    """What an Accept header would rather have: 'labels', 'overlay' or 'json'; raises Refused (406)."""
    weights: dict[str, float] = {}
    for entry in accept.lower().replace(" ", "").split(","):
        name, _, weight = entry.partition(";q=")
        weights.setdefault(name, _weight(weight))
    for name in sorted(filter(weights.get, weights), key=lambda name: -weights[name]):
        if name == OVERLAY:
            return "overlay"
        if name == "application/json":
            return "json"
        if name in ("image/png", "image/*", "*/*", ""):
            return "labels"
    raise Refused(406, f"answers are image/png, {OVERLAY} and application/json.")


def _weight(text: str) -> float:
    """An entry's q-value: 1 where it has none, 0 where it is no number from 0 to 1."""
    try:
        weight = float(text or 1)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


def answered(prediction: Prediction, kind: str) -> Response:
    """A prediction as it was asked for."""
    labels, classes = prediction.labels, prediction.classes
    if kind == "json":
        counts = np.bincount(labels.ravel(), minlength=len(classes))
        shares = [
            {"id": int(i), "name": classes.names[i], "share": float(counts[i] / labels.size)}
            for i in np.argsort(-counts, kind="stable")
            if i < len(classes) and counts[i]
        ]
        height, width = labels.shape
        return JSONResponse({"width": width, "height": height, "classes": shares})
    picture = prediction.overlay() if kind == "overlay" else prediction.label_image()
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1 if kind == "overlay" else 6)
    return Response(file.getvalue(), media_type=OVERLAY if kind == "overlay" else "image/png")
