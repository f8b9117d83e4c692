"""Networks in processes of their own, which compute while this one loads images.

Paddle's predictor keeps Python's lock while it runs, so that threads that load images would stand
still beside it; and it sets the number of threads of its process, which changes the bits of later
trainings.

    with Engines().take(1) as (process,):
        predict = process.predictor(open_it, argument)  # `open_it(argument)`, called there
        logits = predict(pixels)

Pixels travel through memory that both processes map, logits through a pipe.
"""

import mmap
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ppcls_core.runtime.gpu import own_gpu, release_memory
from ppcls_core.runtime.processes import Child, Parent

Predict = Callable[[np.ndarray], np.ndarray]
"""uint8 [N, 3, S, S] pixels to float32 [N, ...] outputs."""
Opening = tuple[Callable[..., Predict], tuple[Any, ...]]
"""A function, found by its name in the other process, and its arguments, which can be compared."""
# glibc gives memory back after each batch of an engine, and clearing it anew takes half the time.
_HEAP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


class EngineProcess:
    """A process that runs networks. One thread at a time may use it."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = {**_HEAP, **(environment or {})}
        self._started: tuple[Child, _Memory] | None = None

    @property
    def is_started(self) -> bool:
        """Whether it runs already, from an earlier use."""
        return self._started is not None

    def predictor(self, function: Callable[..., Predict], *arguments: Any) -> Predict:
        """`function(*arguments)` as it runs there; it is opened with the first batch, and serves
        again when it is asked for again, until `forget`. The process starts with the first.

        When called it raises UserError: as the function and what it gives, or the process has died.
        """
        child, memory = self._started = self._started or self._start()

        def predict(pixels: np.ndarray) -> np.ndarray:
            np.copyto(memory.array(pixels.shape, pixels.dtype.str), pixels)
            return child(((function, arguments), pixels.shape, pixels.dtype.str))

        return predict

    def _start(self) -> "tuple[Child, _Memory]":
        memory, target = _Memory(os.memfd_create("pixels")), f"{__name__}:open_engines"
        given = [memory.descriptor]
        child = Child(target, (*given,), environment=self._environment, descriptors=given)
        return child, memory

    def forget(self) -> None:
        """Close what has not been used since the last call."""
        if self._started:
            self._started[0](None)

    def close(self) -> None:
        """End the process, whatever it does."""
        for part in self._started or ():
            part.close()
        self._started = None


@dataclass
class Engines:
    """Processes that run networks, by number; `most` at a time, where it is given."""

    most: int | None = None
    _idle: dict[int, EngineProcess] = field(default_factory=dict)
    _are_kept: bool = False

    @contextmanager
    def take(self, num: int, gpus: int = 1) -> Generator[list[EngineProcess]]:
        """The first `num` processes, where there are GPUs in turn on the first `gpus` of them. They
        end with the block unless they are `kept`, and where it raises in any case, as they may be
        at work."""
        release_memory()
        taken = [
            self._idle.pop(number, None) or EngineProcess(own_gpu(number % gpus))
            for number in range(min(num, self.most or num))
        ]
        try:
            yield taken
            if self._are_kept:
                for process in taken:
                    process.forget()
                self._idle.update(enumerate(taken))
        finally:
            for process in taken:
                if process not in self._idle.values():
                    process.close()

    @contextmanager
    def kept(self) -> Generator[None]:
        """Keep in the block those that are idle, for who takes them next, until `close`."""
        self._are_kept = True
        try:
            yield
        finally:
            self._are_kept = False
            self.close()

    def close(self) -> None:
        """End those that are idle."""
        while self._idle:
            self._idle.popitem()[1].close()


class _Memory:
    """A file in memory, of this descriptor, that grows with the largest array it has held."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._file, self._map = os.fdopen(descriptor, "r+b"), mmap.mmap(-1, 1)

    def close(self) -> None:
        """Close the file; a map of it stays for as long as an array needs it."""
        self._file.close()

    def array(self, shape: tuple[int, ...], kind: str) -> np.ndarray:
        """Its first bytes as an array, in every process that has the file."""
        size = np.dtype(kind).itemsize * int(np.prod(shape))
        if len(self._map) < size:
            self._file.truncate(max(size, os.fstat(self.descriptor).st_size))
            self._map = mmap.mmap(self.descriptor, size)  # the old one goes with its last array
        return np.ndarray(shape, kind, self._map)


def open_engines(descriptor: int) -> Callable[[Any, Parent], np.ndarray | None]:
    """The child's function: outputs for the pixels in that memory, or None for having forgotten."""
    opened: list[tuple[Opening, Predict]] = []
    used: list[Opening] = []
    memory = _Memory(descriptor)

    def find(opening: Opening) -> Predict:
        if opening not in used:
            used.append(opening)
        for known, predict in opened:
            if known == opening:
                return predict
        function, arguments = opening
        opened.append((opening, function(*arguments)))
        return opened[-1][1]

    def answer(request: Any, parent: Parent) -> np.ndarray | None:
        if request is None:
            opened[:] = [entry for entry in opened if entry[0] in used]
            used.clear()
            return None
        opening, shape, kind = request
        return find(opening)(memory.array(shape, kind))

    return answer
