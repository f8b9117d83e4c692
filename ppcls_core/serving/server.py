"""A service on a port, from its start to its end on a signal."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from http import HTTPStatus
from threading import current_thread, main_thread
from typing import Protocol

import cv2
import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from data_catalog.base.config import UserError
from ppcls_core.serving.app import ModelService
from ppcls_core.serving.guard import Guard
from ppcls_core.serving.limits import Metrics, Refused, ServeConfig

BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is a free one. Raises UserError if that cannot be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(
            f"cannot listen on {host} port {port} ({error}); choose another --port, or 0 for a "
            "free one"
        ) from error


def address_of(bound: socket.socket) -> str:
    """URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(service: ModelService, bound: socket.socket, say: Callable[[str], None]) -> None:
    """Serve on `bound` until SIGTERM or SIGINT, then finish what is under way. Raises what ended
    the model, such as that it cannot be loaded."""
    server = Server(service)
    begun, url = time.perf_counter(), address_of(bound)

    def on_ready(_: Future[None]) -> None:
        say(f"ready after {time.perf_counter() - begun:.1f} s: {url}")

    def on_end(_: Future[None]) -> None:
        server.should_exit = True

    service.batcher.ready.add_done_callback(on_ready)
    service.batcher.ended.add_done_callback(on_end)
    run(server, bound, lambda: say(f"listening, model loading: {url}"))
    if service.batcher.ended.done():
        service.batcher.ended.result()
    say("stopped")


def run(server: Server, bound: socket.socket, announce: Callable[[], None]) -> None:
    """Serve on `bound` until SIGTERM or SIGINT, then finish what is under way; `announce` is called
    once these are heeded."""
    cv2.setNumThreads(1)  # the decoders are threads already
    with server.capture_signals():
        announce()
        server.run([bound])


class Connection(H11Protocol):
    """A connection of a Server, which limits what uvicorn does not: their number and a slow head.

    uvicorn begins to time a connection at its first answer, and never a head that has begun.
    """

    limits: ServeConfig
    metrics: Metrics
    _timer: asyncio.TimerHandle | None = None  # until the next request's head is there

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to time the head, or refuse one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            limit = self.limits.max_connections
            got, expected = f"more than {limit} connections", f"at most {limit}"
            self._refuse(Refused(503, got, expected, "connect again later", 1))
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Time the next head once a request is answered."""
        super().handle_events()
        if getattr(self.cycle, "response_complete", True):  # None before the first request
            self._start_timer()
        else:
            self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the form of all errors."""
        got, remedy = "other bytes than a request's", "send what an HTTP client sends"
        self._refuse(Refused(400, got, "HTTP/1.1", remedy))

    def _start_timer(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.limits.header_seconds, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self.conn.trailing_data[0]:
            got = f"a part of a request's head in {self.limits.header_seconds:g} s"
            self._refuse(Refused(408, got, "all of it", "send it at once"))
        else:  # idle: browsers open connections ahead of need
            self.transport.close()

    def _refuse(self, refused: Refused) -> None:
        """Answer without the application, if an answer is still possible, and close."""
        self.metrics.requests.labels("no request", str(refused.status)).inc()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in _events(refused):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _events(refused: Refused) -> list[h11.Event]:
    response = refused.response()
    headers = [*response.raw_headers, (b"connection", b"close")]
    reason = HTTPStatus(refused.status).phrase.encode()
    start = h11.Response(status_code=refused.status, headers=headers, reason=reason)
    return [start, h11.Data(data=bytes(response.body)), h11.EndOfMessage()]


class GuardedApp(Protocol):
    """An application behind its guard, and its limits."""

    config: ServeConfig
    guard: Guard
    metrics: Metrics


class Server(uvicorn.Server):
    """Ends without an error on a signal, and does not wait for bodies that are still coming."""

    def __init__(self, service: GuardedApp) -> None:
        config, self._bodies = service.config, service.guard.bodies
        limits = {"limits": config, "metrics": service.metrics}
        super().__init__(
            uvicorn.Config(
                service.guard,
                http=type("_LimitedConnection", (Connection,), limits),
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=max(1, int(config.header_seconds)),
                timeout_graceful_shutdown=config.stop_seconds,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as uvicorn does, without waiting for bodies that have not come whole."""
        self._bodies.stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's raises the signal again at the end."""
        if current_thread() is not main_thread():
            yield
            return
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                with suppress(TypeError):  # None: it was not set from Python
                    signal.signal(number, handler)
