"""Connections that cannot be held for nothing: uvicorn has no timeout for headers and slow readers."""

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

WAIT = 10.0  # seconds for a request's headers, for the rest of a refused body, between two requests
SLOWEST = 10_000  # bytes a second at which an answer has to be read


class Connection(H11Protocol):
    """uvicorn's connection, closed where no request comes; a new one replaces the longest idle one.

    ``limit_concurrency`` is the largest number of connections. uvicorn answers 503 beyond it, to
    /healthz as well; here the connections that wait for a request make room.
    """

    _idle: ClassVar[dict["Connection", None]] = {}  # the longest idle one first
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        most, self.limit_concurrency = self.limit_concurrency, None
        self._start_waiting()
        if most is not None and len(self.connections) > most:
            oldest = next(iter(self._idle))
            oldest._stop_waiting()
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:  # a request has come
            self._stop_waiting()

    def on_response_complete(self) -> None:
        self._start_waiting()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        try:
            super().timeout_keep_alive_handler()
        except h11.LocalProtocolError:  # answered before the whole body came
            self.transport.close()

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except h11.LocalProtocolError:
            self.transport.abort()

    def _start_waiting(self, unread: float = float("inf")) -> None:
        """``unread``: how much of the last answer the client may not have read at the end."""
        self._stop_waiting()
        self._idle[self] = None
        self._timer = self.loop.call_later(WAIT, self._waited, unread)

    def _stop_waiting(self) -> None:
        self._idle.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

    def _waited(self, most: float) -> None:
        unread = self.transport.get_write_buffer_size()
        if 0 < unread <= most:
            self._start_waiting(max(0, unread - SLOWEST * WAIT))
        else:
            self._stop_waiting()
            self.transport.abort()
