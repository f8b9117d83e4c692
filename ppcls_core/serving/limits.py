"""The limits of a server, the refusal of what is beyond them, and the counts of both."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from pydantic import Field, model_validator
from starlette.responses import JSONResponse

from data_catalog.base.config import Config
from ppcls_core.data.decode import MAX_PIXELS

MIB = 2**20
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class ServeConfig(Config):
    """Batching and limits; what goes beyond a limit is refused with a 4xx or 503."""

    max_batch: int = Field(default=8, ge=1, le=1024)  # images; 1: no batching
    max_wait_ms: float = Field(default=5, ge=0, le=1000)  # of an image for others on their way
    max_queue: int = Field(default=64, ge=1, le=65_536)  # images taken on and not yet answered
    max_images: int = Field(default=32, ge=1)  # of a request
    max_pixels: int = Field(default=25_000_000, ge=1, le=MAX_PIXELS)  # of an image
    max_body_bytes: int = Field(default=16 * MIB, ge=1)  # of a request
    max_held_bytes: int = Field(default=256 * MIB, ge=1)  # of all requests under way
    max_connections: int = Field(default=256, ge=1)  # open at a time
    header_seconds: float = Field(default=10, gt=0)  # for a request's head; idle connections too
    body_seconds: float = Field(default=30, gt=0)  # for its body
    stop_seconds: int = Field(default=10, ge=1)  # for what is under way at a stop

    @model_validator(mode="after")
    def _requests_fit(self) -> Self:
        if self.max_images > self.max_queue:
            raise ValueError("max_images is above max_queue: such a request would never be taken")
        if self.max_body_bytes > self.max_held_bytes:
            raise ValueError("max_body_bytes is above max_held_bytes: lower one or raise the other")
        return self


@dataclass(eq=False)
class Refused(Exception):
    """A request that is not answered: what was got, what was expected and the remedy, as phrases.

    `retry_after` (seconds) says that it may be answered later; `reason` is that of BadImage, where
    it is the image's fault.
    """

    status: int
    got: str
    expected: str
    remedy: str
    retry_after: float | None = None
    reason: str | None = None

    def response(self) -> JSONResponse:
        """{"error": {"status", "got", "expected", "remedy"}}, and "reason" if there is one."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        parts = {"got": self.got, "expected": self.expected, "remedy": self.remedy}
        if self.reason is not None:
            parts["reason"] = self.reason
        return JSONResponse({"error": {"status": self.status, **parts}}, self.status, headers)


def cut(text: str) -> str:
    """`text`, quoted, its middle left out if it is long."""
    return repr(text if len(text) <= 80 else f"{text[:40]}...{text[-30:]}")


class Metrics:
    """Counters and timings of one server, for Prometheus; all of its threads may use them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        timing = partial(Histogram, buckets=SECONDS, registry=registry)
        gauge = partial(Gauge, registry=registry)
        # Paths that are not served share a label: each label costs memory.
        self.requests = Counter(
            "ppcls_requests", "Requests by path and status.", ["path", "status"], registry=registry
        )
        self.seconds = timing(
            "ppcls_request_seconds", "From a request's head to its answer.", ["path"]
        )
        sizes = (1, 2, 4, 8, 16, 32, 64, 128)
        self.batches = timing("ppcls_batch_images", "Images in a batch.", buckets=sizes)
        self.decoding = timing(
            "ppcls_decode_seconds", "From an image's bytes to the network's input."
        )
        self.inference = timing("ppcls_inference_seconds", "Of a batch.")
        self.queue = gauge("ppcls_queue_images", "Images taken on and not yet answered.")
        self.held = gauge("ppcls_held_bytes", "Of bodies under way.")
