"""A service on a port, from its start to its end on a signal."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread

import cv2
import uvicorn

from data_catalog.base.config import UserError
from ppcls_core.serving.app import ModelService
from ppcls_core.serving.connection import connection_class

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
    """Serve on `bound` until SIGTERM or SIGINT, then finish what is under way.

    Raises what ended the model, such as that it cannot be loaded.
    """
    cv2.setNumThreads(1)  # the decoders are threads already
    server = Server(service)
    begun, url = time.perf_counter(), address_of(bound)

    def on_ready(_: Future[None]) -> None:
        say(f"ready after {time.perf_counter() - begun:.1f} s: {url}")

    def on_end(_: Future[None]) -> None:
        server.should_exit = True

    service.batcher.ready.add_done_callback(on_ready)
    service.batcher.ended.add_done_callback(on_end)
    with server.capture_signals():  # from before anyone is told to where they go
        say(f"listening, model loading: {url}")
        server.run([bound])
    if service.batcher.ended.done():
        service.batcher.ended.result()
    say("stopped")


class Server(uvicorn.Server):
    """Ends without an error on a signal, and does not wait for bodies that are still coming."""

    def __init__(self, service: ModelService) -> None:
        config, self._bodies = service.config, service.guard.bodies
        super().__init__(
            uvicorn.Config(
                service.guard,
                http=connection_class(config, service.metrics),
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
