"""A server in this process whose model is a stand-in: the inference engine would change it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Event, Thread

import cv2
import numpy as np

from ppcls_core.data.transforms import Preprocess
from ppcls_core.inference.exported import Logits
from ppcls_core.inference.sidecar import Sidecar
from ppcls_core.serving.access import access_to
from ppcls_core.serving.app import ModelService, ServedModel
from ppcls_core.serving.limits import ServeConfig
from ppcls_core.serving.server import GuardedApp, Server, address_of, listen

COLOURS = ("red", "green", "blue")
SIDECAR = Sidecar(architecture="Colours", classes=COLOURS, preprocess=Preprocess(size=32))


def colours(pixels: np.ndarray) -> np.ndarray:
    """Logits for COLOURS: how much there is of each."""
    return pixels.mean((2, 3), dtype=np.float32) / 25


def encoded(colour: str, suffix: str = ".jpg", side: int = 40) -> bytes:
    """A picture of one colour."""
    rgb = [230 if colour == name else 20 for name in COLOURS]
    return cv2.imencode(suffix, np.full((side, side, 3), rgb[::-1], np.uint8))[1].tobytes()


@dataclass
class Gate:
    """A predictor that waits until `opened` and remembers how many images it was given."""

    opened: Event
    batches: list[int]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        assert self.opened.wait(30)
        self.batches.append(len(pixels))
        return colours(pixels)


@dataclass
class Running:
    url: str
    service: ModelService
    server: Server

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10)

    def raw(self, data: bytes) -> bytes:
        """What comes back for `data`, until the server closes."""
        with self.connect() as connection:
            connection.sendall(data)
            return received(connection)


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@contextmanager
def running(
    predict: Logits = colours, token: str | None = None, **limits: object
) -> Iterator[Running]:
    """A server on a free port of the loopback interface, its model loaded."""
    config = ServeConfig.model_validate(limits)
    access = access_to("127.0.0.1", token)
    service = ModelService(ServedModel(SIDECAR, lambda: nullcontext(predict)), config, access, 2)
    with serving(service) as (url, server):
        while not service.batcher.ready.done():
            time.sleep(0.005)
        yield Running(url, service, server)


@contextmanager
def serving(service: GuardedApp) -> Iterator[tuple[str, Server]]:
    """`service` at a URL, on a free port of the loopback interface."""
    with listen("127.0.0.1", 0) as bound:
        server = Server(service)
        thread = Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield address_of(bound), server
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
