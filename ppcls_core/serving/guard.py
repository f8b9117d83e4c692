"""The outermost layer of the application: access, limits on a body's size and time, and counts.

uvicorn hands over bodies of any size at any speed. Here they are counted as they come, whether
their length was announced or not, and end with a Refused wherever the application reads them.
Starlette has a limit on the size of one body, but none on its time or on all bodies together, for
which the same bytes have to be counted; nor does its check of the Host know a loopback network.
"""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ppcls_core.serving.access import Access
from ppcls_core.serving.limits import Metrics, Refused, ServeConfig

MAX_HEAD = 32_768  # bytes of headers
DRAIN_SECONDS = 2.0  # for the rest of a body after its refusal
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


@dataclass
class Bodies:
    """All bodies under way."""

    held: int = 0  # bytes
    stopping: bool = False
    reading: set[asyncio.Timeout] = field(default_factory=set)

    def stop(self) -> None:
        """Give up those that have not come whole."""
        self.stopping = True
        for timeout in self.reading:
            timeout.reschedule(0)


class Guard:
    """The outermost middleware: answers every Refused; counts requests by `paths`."""

    def __init__(
        self,
        app: ASGIApp,
        config: ServeConfig,
        access: Access,
        metrics: Metrics,
        paths: Collection[str],
    ) -> None:
        self.bodies = Bodies()
        self._app, self._config, self._access, self._metrics = app, config, access, metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["method"] == "HEAD":
            # FastAPI's routes do not answer it as Starlette's do. uvicorn, which keeps the scope
            # as it was, sends the answer to GET without its body.
            scope = {**scope, "method": "GET"}
        begun, headers = time.perf_counter(), Headers(scope=scope)
        exchange = Exchange(self._config, self.bodies, headers, (receive, send))
        try:
            self._access.check(scope["path"], headers)
            exchange.check_head()
            await self._app(scope, exchange.receive, exchange.send)
        except Refused as refused:
            await refused.response()(scope, receive, exchange.send)
        except ClientDisconnect:
            exchange.status = 499  # as nginx counts them; nobody is there to be answered
        finally:
            self.bodies.held -= exchange.held
            self._count(scope["path"], exchange.status, time.perf_counter() - begun)
        return None

    def _count(self, path: str, status: int, seconds: float) -> None:
        label = path if path in self._paths else "other"
        self._metrics.requests.labels(label, str(status)).inc()
        self._metrics.seconds.labels(label).observe(seconds)
        self._metrics.held.set(self.bodies.held)


class Exchange:
    """A request whose body is watched, and its answer."""

    def __init__(
        self, config: ServeConfig, bodies: Bodies, headers: Headers, ends: tuple[Receive, Send]
    ) -> None:
        self.status = 500  # until another is sent
        self.held = 0  # bytes of the body
        self._config, self._bodies, self._headers = config, bodies, headers
        self._receive, self._send = ends
        self._until = asyncio.get_running_loop().time() + config.body_seconds
        length = headers.get("content-length", "0")
        self._whole = length == "0" and "transfer-encoding" not in headers

    def check_head(self) -> None:
        """Raises Refused (413, 415, 431) for the head of the request and what it announces."""
        size = sum(len(name) + len(value) for name, value in self._headers.raw)
        if size > MAX_HEAD:  # h11 limits what comes in several pieces
            raise Refused(431, f"headers of {size:,} bytes", f"at most {MAX_HEAD:,}", "send fewer")
        # h11 has checked that it is a number, of at most 20 digits.
        self._check_size(int(self._headers.get("content-length", "0")))
        coding = self._headers.get("content-encoding", "identity")
        if coding != "identity":
            raise Refused(415, f"Content-Encoding {coding[:40]}", "none", "send the body as it is")

    def _check_size(self, num: int) -> None:
        limit = self._config.max_body_bytes
        if num > limit:
            raise Refused(
                413,
                f"a body of {num:,} bytes or more",
                f"at most {limit:,}",
                "send fewer or smaller images; -o max_body_bytes=N raises the limit",
            )

    async def receive(self) -> Message:
        """As the server's. Raises Refused (408, 413, 503)."""
        if self._whole:
            return await self._receive()
        message = await self._in_time()
        if message["type"] == "http.request":
            num = len(message.get("body", b""))
            self.held += num
            self._bodies.held += num
            self._whole = not message.get("more_body", False)
            self._check_size(self.held)
            if self._bodies.held > self._config.max_held_bytes:
                raise Refused(
                    503,
                    f"more than {self._config.max_held_bytes:,} bytes of requests at a time",
                    "fewer or smaller requests",
                    "ask again later",
                    1,
                )
        return message

    async def _in_time(self) -> Message:
        if self._bodies.stopping:
            raise _stopping()
        try:
            async with asyncio.timeout_at(self._until) as timeout:
                self._bodies.reading.add(timeout)
                try:
                    return await self._receive()
                finally:
                    self._bodies.reading.discard(timeout)
        except TimeoutError:
            if self._bodies.stopping:
                raise _stopping() from None
            raise Refused(
                408,
                f"{self.held:,} bytes of a body in {self._config.body_seconds:g} s",
                "all of it in that time",
                "send smaller images, or over a faster connection",
            ) from None

    async def send(self, message: Message) -> None:
        """As the server's; the rest of a body that was not read is taken in before the end.

        Closing a connection with bytes unread resets it, which can take the answer along.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            close = [] if self._whole else [(b"connection", b"close")]
            message = {**message, "headers": [*message["headers"], *HEADERS, *close]}
        elif not (self._whole or message.get("more_body", False)):
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body"}
        await self._send(message)

    async def _drain(self) -> None:
        if "expect" in self._headers or self._bodies.stopping:
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self._whole:
                    message = await self._receive()
                    self._whole = not message.get("more_body", False)
        except TimeoutError:
            pass


def _stopping() -> Refused:
    return Refused(503, "a body that was still coming", "a server that runs on", "ask again", 1)
