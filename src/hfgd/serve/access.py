"""Who may ask: Host and Origin against foreign pages in a browser, a key against everybody else."""

import base64
import binascii
import hmac
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hfgd.errors import HfgdError

LOOPBACK = "localhost"


@dataclass(frozen=True)
class Access:
    """``host``: the address that is listened on. ``origins``: pages elsewhere that may ask, as
    'https://example.org', or '*' for all. ``key``: what a request has to bring; None for nothing.

    Raises HfgdError for an origin or a key that cannot be.
    """

    host: str = LOOPBACK
    origins: tuple[str, ...] = ()
    key: str | None = None

    def __post_init__(self) -> None:
        for origin in self.origins:
            parts = urlsplit(origin)
            if origin != "*" and f"{parts.scheme}://{parts.netloc}" != origin.lower():
                raise HfgdError(
                    f"--allow-origin takes a page's origin such as https://example.org, or '*', not "
                    f"'{origin}'."
                )
        if self.key is not None and not (
            self.key.isascii() and self.key.isprintable() and self.key
        ):
            raise HfgdError("--api-key takes letters, digits and signs of ASCII, at least one.")

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the service."""
        return self.host == LOOPBACK or (_is_ip(self.host) and ip_address(self.host).is_loopback)

    def refusal(self, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Status and sentence for a request that may not ask; None for one that may."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if "*" not in self.origins:
            if not self._is_ours(host):
                return 421, (
                    f"this service is not called '{host[:100]}'; ask it by its address, or start it "
                    "with --allow-origin."
                )
            if origin is not None and not self._may_ask(origin.lower(), host.lower()):
                return 403, (
                    f"pages of '{origin[:100]}' may not ask this service; start it with "
                    "--allow-origin."
                )
        if path != "/healthz" and self.key is not None and not self._brings_key(headers):
            return 401, "this service wants its key, as 'Authorization: Bearer KEY' or 'X-API-Key'."
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this service. A name of an attacker's DNS does not."""
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".") if _is_netloc(host) else "?"
        known = {"", LOOPBACK, self.host.lower(), socket.gethostname().lower()}
        known |= {urlsplit(origin).hostname or "" for origin in self.origins}
        return name in known or _is_ip(name)

    def _may_ask(self, origin: str, host: str) -> bool:
        own = {f"http://{host}", f"https://{host}"}
        return origin in own | {each.lower() for each in self.origins}

    def _brings_key(self, headers: Mapping[str, str]) -> bool:
        kind, _, value = headers.get("authorization", "").partition(" ")
        given = [headers.get("x-api-key", ""), value if kind.lower() == "bearer" else ""]
        if kind.lower() == "basic":  # what a browser asks its user for
            given.append(_password(value))
        key = (self.key or "").encode()
        return any(hmac.compare_digest(each.strip().encode(), key) for each in given)


class Guard:
    """The application for those who may ask; HEAD is answered as GET, whose body uvicorn leaves out."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.access = access
        self.app: ASGIApp = app
        if access.origins:
            self.app = CORSMiddleware(
                app,
                allow_origins=access.origins,
                allow_methods=("GET", "POST"),
                allow_headers=("Authorization", "X-API-Key"),
                allow_private_network=True,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            asks_first = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
            refusal = self.access.refusal("/healthz" if asks_first else scope["path"], headers)
            if refusal is not None:
                status, sentence = refusal
                needs = {"WWW-Authenticate": 'Basic realm="hfgd"'} if status == 401 else None
                app = JSONResponse({"detail": sentence}, status, needs)
            if scope["method"] == "HEAD":
                scope = {**scope, "method": "GET"}
        await app(scope, receive, send)


def _is_ip(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_netloc(host: str) -> bool:
    try:
        parts = urlsplit(f"//{host}")
        return parts.netloc == host and "@" not in host and parts.port != -1
    except ValueError:
        return False


def _password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
