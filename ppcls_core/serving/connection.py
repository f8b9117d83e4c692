"""A connection as uvicorn handles it, with what it lacks: their number and a slow head are limited.

uvicorn begins to time a connection at its first answer, and never a head that has begun.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ppcls_core.serving.config import ServeConfig
from ppcls_core.serving.metrics import Metrics
from ppcls_core.serving.refused import Refused

PHRASES = {400: b"Bad Request", 408: b"Request Timeout", 503: b"Service Unavailable"}


class Connection(H11Protocol):
    """To be made through `connection_class`."""

    limits: ServeConfig
    metrics: Metrics
    _timer: asyncio.TimerHandle | None = None  # until the next request's head is there

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to time the head, or refuse one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(_too_many(self.limits.max_connections))
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Time the next head once a request is answered."""
        super().handle_events()
        if self.cycle is None or self.cycle.response_complete:
            self._start_timer()
        else:
            self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the form of all errors."""
        self._refuse(
            Refused(
                400, "other bytes than a request's", "HTTP/1.1", "send what an HTTP client sends"
            )
        )

    def _start_timer(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.limits.header_seconds, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self.conn.trailing_data[0]:
            self._refuse(_slow(self.limits.header_seconds))
        else:  # idle: browsers open connections ahead of need
            self.transport.close()

    def _refuse(self, refused: Refused) -> None:
        """Answer without the application, if an answer is still possible, and close."""
        self.metrics.requests.labels("no request", str(refused.status)).inc()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in _events(refused):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def connection_class(config: ServeConfig, metrics: Metrics) -> type[Connection]:
    """The protocol for uvicorn under the limits of `config`."""

    class _Limited(Connection):
        pass

    _Limited.limits, _Limited.metrics = config, metrics
    return _Limited


def _events(refused: Refused) -> list[h11.Event]:
    response = refused.response()
    headers = [*response.raw_headers, (b"connection", b"close")]
    start = h11.Response(
        status_code=refused.status, headers=headers, reason=PHRASES[refused.status]
    )
    return [start, h11.Data(data=bytes(response.body)), h11.EndOfMessage()]


def _too_many(limit: int) -> Refused:
    return Refused(
        503, f"more than {limit} connections", f"at most {limit}", "connect again later", 1
    )


def _slow(seconds: float) -> Refused:
    return Refused(
        408, f"a part of a request's head in {seconds:g} s", "all of it", "send it at once"
    )
