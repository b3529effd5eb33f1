"""The service: POST /predict, a page for people, /healthz, /metrics, /docs and /openapi.json."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as metrics_text
from starlette.datastructures import UploadFile
from starlette.types import Message

from hfgd import __version__
from hfgd.data.classes import ClassSet
from hfgd.data.draw import Prediction
from hfgd.data.images import Pixels
from hfgd.parallel.lifetime import end_with_parent
from hfgd.serve.limits import Limits, Refused, decoded
from hfgd.serve.page import docs_page, service_page

SETTINGS = "HFGD_SERVE"  # how several processes learn what to serve
OVERLAY = "image/png;profile=overlay"


class Labels(Protocol):
    """What the service needs of a Labeller."""

    classes: ClassSet

    def __call__(self, pixels: Pixels) -> Pixels:
        """(H, W, 3) uint8 RGB → class ids (H, W) uint8."""


class Service:
    """One model, one thread that labels, a bounded number of requests in hand."""

    def __init__(self, labeller: Labels, limits: Limits) -> None:
        self.labeller, self.limits = labeller, limits
        self.in_hand = 0
        self._labelling = ThreadPoolExecutor(1, "label")  # a runtime uses the cores itself
        self._files = ThreadPoolExecutor(2, "files")  # reading and writing pictures beside it
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
        try:
            async with asyncio.timeout(self.limits.seconds):
                content = await self._image(request)
                with self._place():
                    began = time.perf_counter()
                    response = await self._labelled(content, kind)
                    self.seconds.observe(time.perf_counter() - began)
                    return response
        except TimeoutError as error:
            sentence = f"no answer within {self.limits.seconds:g} seconds; try a smaller image."
            raise Refused(504, sentence) from error
        except MemoryError as error:
            raise Refused(413, "not enough memory for an image of this size.") from error

    async def _labelled(self, content: bytes, kind: str) -> Response:
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self._files, decoded, content, self.limits)
        labels = await loop.run_in_executor(self._labelling, self.labeller, pixels)
        prediction = Prediction(pixels, labels, self.labeller.classes)
        return await loop.run_in_executor(self._files, answered, prediction, kind)

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
        async for part in request.stream():
            content += part
            if len(content) > most:
                raise refused
        whole = bytes(content)
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            whole = await _field(request, whole)
        if not whole:
            raise Refused(400, "the request holds no image: send its bytes, or a field 'image'.")
        return whole


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


def make_app(labeller: Labels, limits: Limits, name: str) -> FastAPI:
    """The application around a labeller."""
    service = Service(labeller, limits)
    # FastAPI's own /docs loads scripts from another host; ours is in the package
    app = FastAPI(title=f"hfgd: {name}", version=__version__, docs_url=None, redoc_url=None)
    page, docs = service_page(name, labeller.classes, limits), docs_page(name, limits)

    @app.post("/predict", openapi_extra=_OPENAPI, response_class=Response)
    async def predict(request: Request) -> Response:
        """Label one image: a label PNG, an overlay PNG or JSON with shares, as Accept asks."""
        return await _counted(service, service.answer, request)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> str:
        return page

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs_() -> str:
        return docs

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the service runs, and its model's name."""
        return {"status": "ok", "model": name, "version": __version__}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts and times in Prometheus's form, of this process."""
        return Response(metrics_text(service.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def _counted(
    service: Service, work: Callable[[Request], Awaitable[Response]], request: Request
) -> Response:
    try:
        response = await work(request)
    except Refused as refused:
        headers = {"Retry-After": "1"} if refused.status == 429 else None
        response = JSONResponse({"detail": refused.sentence}, refused.status, headers)
    except Exception:
        service.answers.labels(500).inc()
        raise
    service.answers.labels(response.status_code).inc()
    return response


def opened(
    model: str, limits: Limits, device: str | None = None, code: Path | None = None
) -> FastAPI:
    """The application of a run folder, a model folder or an exported file."""
    from hfgd.inference.open import How, open_labeller, origin

    labeller = open_labeller(model, How(device=device, precision="auto", code=code))
    return make_app(labeller, limits, origin(model).name)


def run(
    model: str,
    limits: Limits,
    host: str,
    port: int,
    workers: int,
    device: str | None,
    code: Path | None = None,
) -> None:
    """Serve until interrupted. ``workers``: processes, each with a model of its own."""
    import uvicorn

    app: Any = opened(model, limits, device, code)  # a mistake is told before anything listens
    print(f"http://{host}:{port}/  (docs: /docs; stop with Ctrl-C)", flush=True)
    if workers > 1:
        del app
        settings = {"model": model, "limits": asdict(limits), "device": device}
        settings["code"] = None if code is None else str(code)
        os.environ[SETTINGS] = json.dumps(settings)
        app = "hfgd.serve.app:from_environment"
    uvicorn.run(
        app,
        factory=workers > 1,
        host=host,
        port=port,
        workers=workers,
        limit_concurrency=8 * limits.queue + 64,  # connections, busy and idle
        log_level="warning",
    )


def from_environment() -> FastAPI:
    """The application of one of several processes."""
    end_with_parent()
    settings = json.loads(os.environ[SETTINGS])
    code = settings["code"] and Path(settings["code"])
    return opened(settings["model"], Limits(**settings["limits"]), settings["device"], code)


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": _BINARY,
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"image": _BINARY["schema"]}}
            },
        },
    },
    "responses": {
        "200": {
            "description": "Labels, overlay or shares",
            "content": {"image/png": _BINARY, OVERLAY: _BINARY, "application/json": {}},
        },
        **{
            str(status): {"description": text}
            for status, text in {
                400: "no image in the request",
                406: "no such answer",
                413: "too many bytes or pixels",
                415: "no image of a format that is taken",
                429: "too many requests in hand",
                504: "too slow",
            }.items()
        },
    },
}
