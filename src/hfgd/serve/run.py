"""The server process: the model, the addresses, and the end."""

import json
import logging
import os
import socket
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from hfgd.errors import HfgdError
from hfgd.parallel.launch import end_with_parent
from hfgd.progress import say
from hfgd.serve.access import Access
from hfgd.serve.app import make_app
from hfgd.serve.connection import Connection
from hfgd.serve.limits import Limits

SETTINGS = "HFGD_SERVE"  # how several processes learn what to serve
KEPT = 8  # a runtime may keep this part of the memory for the next image


@dataclass(frozen=True)
class Serving:
    """What is served, with what limits, to whom; ``workers``: processes, each with the model."""

    model: str
    limits: Limits
    access: Access
    port: int
    workers: int = 1
    device: str | None = None
    code: Path | None = None  # the folder whose code the model may run


def opened(serving: Serving) -> FastAPI:
    """The application of a run folder, a model folder or an exported file."""
    from hfgd.inference.file_labeller import FileLabeller
    from hfgd.inference.labeller import InferenceConfig, open_labeller, origin

    warnings.filterwarnings("ignore", module=r"PIL\.")  # strangers fill no log
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    how = InferenceConfig(device=serving.device, precision="auto", code=serving.code)
    labeller = open_labeller(serving.model, how)
    memory, grid, only = labeller.memory(), labeller.grid, None
    if isinstance(labeller, FileLabeller):
        only = labeller.size
        labeller.keep_at_most(serving.limits.memory // KEPT)
    return make_app(
        labeller,
        serving.limits,
        origin(serving.model).name,
        access=serving.access,
        needed=lambda size: memory.needed(size, grid),
        only=only,
    )


def run(serving: Serving) -> None:
    """Serve until interrupted. Raises HfgdError for a model or an address that cannot be served."""
    app: Any = opened(serving)  # a mistake is told before anything listens
    host, limits = serving.access.host, serving.limits
    sockets = _listening(host, serving.port)
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{serving.port}/  (docs: /docs; stop with Ctrl-C)", flush=True)
    if not serving.access.is_local and serving.access.key is None:
        say(
            f"serve: everybody who reaches {shown}:{serving.port} can use it; give --api-key, or put "
            "a proxy before it that asks who they are"
        )
    if serving.workers > 1:
        del app
        os.environ[SETTINGS] = json.dumps(asdict(serving), default=str)
        app = "hfgd.serve.run:from_environment"
    config = uvicorn.Config(
        app,
        factory=serving.workers > 1,
        http=Connection,
        ws="none",
        workers=serving.workers,
        limit_concurrency=8 * limits.queue + 64,  # connections, busy and idle
        timeout_graceful_shutdown=limits.drain,
        log_level="error",
    )
    if serving.workers > 1:
        from uvicorn.supervisors import Multiprocess

        Multiprocess(config, sockets).run()
        return
    try:
        uvicorn.Server(config).run(sockets)
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(0)  # a network that is still at work would be waited for


def _listening(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address of a host, that take connections from now on."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        addresses = {(family, address) for family, _, _, _, address in found}
        return [_bound(family, address) for family, address in sorted(addresses, key=str)]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise HfgdError(
            f"cannot listen on {host}:{port} ({reason}); choose another --host or --port."
        ) from error


def _bound(family: int, address: Any) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    bound.bind(address)
    bound.listen(2048)
    bound.set_inheritable(True)
    return bound


def from_environment() -> FastAPI:
    """The application of one of several processes."""
    end_with_parent()
    told = json.loads(os.environ[SETTINGS])
    told["access"]["origins"] = tuple(told["access"]["origins"])
    told["limits"]["formats"] = tuple(told["limits"]["formats"])
    told["code"] = told["code"] and Path(told["code"])
    return opened(
        Serving(**told | {"limits": Limits(**told["limits"]), "access": Access(**told["access"])})
    )
