"""The application: POST /predict, a page for people, /healthz, /metrics, /docs, /openapi.json."""

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client import generate_latest as metrics_text

from hfgd import __version__
from hfgd.serve.access import Access, Guard
from hfgd.serve.limits import Limits, Refused
from hfgd.serve.page import docs_page, service_page
from hfgd.serve.service import OVERLAY, Labels, Service
from hfgd.types import Size


def make_app(
    labeller: Labels,
    limits: Limits,
    name: str,
    *,
    access: Access | None = None,
    needed: Callable[[Size], int] | None = None,
    only: Size | None = None,
) -> FastAPI:
    """The application around a labeller. ``access``: anybody without; the rest: see Service."""
    service = Service(labeller, limits, needed, only)
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

    if access is not None:
        app.add_middleware(Guard, access=access)
    return app


async def _counted(
    service: Service, work: Callable[[Request], Awaitable[Response]], request: Request
) -> Response:
    try:
        response = await work(request)
    except Refused as refused:
        headers = {"Retry-After": "1"} if refused.status == 429 else None
        response = JSONResponse({"detail": refused.sentence}, refused.status, headers)
    except asyncio.CancelledError:  # by the server, when the time for its end is over
        response = JSONResponse({"detail": "the service is shutting down."}, 503)
    except Exception:
        service.answers.labels(500).inc()
        raise
    service.answers.labels(response.status_code).inc()
    return response


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
                401: "no key",
                403: "a page of another origin",
                406: "no such answer",
                408: "the body came too slowly",
                413: "too many bytes or pixels, or too much memory",
                415: "no image of a format that is taken",
                421: "a Host header that is not this service's",
                422: "a size that the model does not take",
                429: "too many requests in hand",
                503: "the service is shutting down",
                504: "too slow",
            }.items()
        },
    },
}
