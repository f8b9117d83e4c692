"""Counters and timings of a server, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one server; they may be used from all of its threads."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        # Paths that are not served share a label: each label costs memory.
        self.requests = Counter(
            "ppcls_requests", "Requests by path and status.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "ppcls_request_seconds",
            "From a request's head to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "ppcls_batch_images",
            "Images in a batch.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        self.decoding = Histogram(
            "ppcls_decode_seconds",
            "From an image's bytes to the network's input.",
            buckets=SECONDS,
            registry=registry,
        )
        self.inference = Histogram(
            "ppcls_inference_seconds", "Of a batch.", buckets=SECONDS, registry=registry
        )
        self.queue = Gauge(
            "ppcls_queue_images", "Images taken on and not yet answered.", registry=registry
        )
        self.held = Gauge("ppcls_held_bytes", "Of bodies under way.", registry=registry)
