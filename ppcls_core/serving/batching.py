"""Images of many requests through one predictor, several at a time.

One thread owns the predictor, which may not be used by two. It takes the first image that waits,
then those that come within `max_wait_ms` of its arrival; but it waits only for images already
taken on and still being decoded, so that a lone client never waits. Until a batch is done the
others gather.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread

import numpy as np

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from ppcls_core.inference.exported import Logits
from ppcls_core.serving.limits import Metrics, Refused, ServeConfig

Load = Callable[[], AbstractContextManager[Logits]]
SMOOTHING = 0.1  # of the seconds that an image takes, batch by batch


@dataclass
class _Waiting:
    image: np.ndarray  # uint8 [3, S, S]
    answer: Future[np.ndarray] = field(default_factory=Future)  # float32 [C]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Call everything but `start`'s `load` from the event loop's thread."""

    def __init__(self, config: ServeConfig, metrics: Metrics) -> None:
        self.ready: Future[None] = Future()  # the model is loaded and warm
        self.ended: Future[None] = Future()  # the thread has, or with what error
        self._config, self._metrics = config, metrics
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._taken_on = 0  # images; written by the event loop's thread alone
        self._seconds = 0.05  # an image takes; a guess until one has run

    @property
    def is_ready(self) -> bool:
        """True from when the model is warm until its thread has ended."""
        return self.ready.done() and not self.ended.done()

    def start(self, load: Load, size: int) -> None:
        """Load the predictor in its thread and warm it up on images of `size`."""
        self._thread = Thread(target=self._work, args=(load, size), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what waits; while it loads it is left to end with the process."""
        self._queue.put(None)
        if self.ready.done():
            self._thread.join(self._config.stop_seconds)

    def check_room(self, num: int = 1) -> None:
        """Raises Refused (503) if the model is not loaded or the queue has no room for `num`."""
        if not self.is_ready:
            raise Refused(
                503, "a request before the model is loaded", "one after that", "ask again later", 1
            )
        if self._taken_on + num > self._config.max_queue:
            raise Refused(
                503,
                f"{num} more with {counted(self._taken_on, 'image')} waiting",
                f"at most {self._config.max_queue} to wait",
                "ask again later, or with fewer at a time",
                self._taken_on * self._seconds,
            )

    @contextmanager
    def taking_on(self, num: int) -> Iterator[None]:
        """Room in the queue for `num` images. Raises Refused (503) if there is none."""
        self.check_room(num)
        self._count(num)
        try:
            yield
        finally:
            self._count(-num)

    def _count(self, num: int) -> None:
        self._taken_on += num
        self._metrics.queue.set(self._taken_on)

    async def logits(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float32 [C] of each uint8 [3, S, S], in order; they may run in several batches."""
        waiting = [_Waiting(image) for image in images]
        for one in waiting:
            self._queue.put(one)
        if self.ended.done():  # the thread may have ended before they were put
            self._abandon()
        return await asyncio.gather(*(asyncio.wrap_future(one.answer) for one in waiting))

    def _work(self, load: Load, size: int) -> None:
        try:
            with load() as predict:
                for num in {1, self._config.max_batch}:
                    predict(np.zeros((num, 3, size, size), np.uint8))
                self.ready.set_result(None)
                while batch := self._next():
                    self._answer(predict, batch)
        except BaseException as error:  # noqa: BLE001 - whoever waits for `ended` gets it
            self.ended.set_exception(error)
            self._abandon()
        else:
            self.ended.set_result(None)

    def _answer(self, predict: Logits, batch: list[_Waiting]) -> None:
        batch = _begun(batch)
        try:
            answers = self._predicted(predict, batch) if batch else ()
        except UserError:  # there is no predictor any more
            _fail(batch, _gone())
            raise
        except Exception as error:  # noqa: BLE001 - the requests get it
            _fail(batch, error)
        else:
            for one, answer in zip(batch, answers, strict=True):
                one.answer.set_result(answer)

    def _next(self) -> list[_Waiting]:
        """The next batch; empty at the end."""
        first = self._queue.get()
        if first is None:
            return []
        batch, until = [first], first.since + self._config.max_wait_ms / 1e3
        while len(batch) < self._config.max_batch:
            wait = until - time.monotonic() if self._taken_on > len(batch) else 0
            try:
                one = self._queue.get(timeout=max(0, wait))
            except Empty:
                break
            if one is None:
                self._queue.put(None)
                break
            batch.append(one)
        return batch

    def _abandon(self) -> None:
        """Refuse what waits."""
        with suppress(Empty):
            while True:
                if one := self._queue.get_nowait():
                    _fail(_begun([one]), _gone())

    def _predicted(self, predict: Logits, batch: list[_Waiting]) -> np.ndarray:
        begun = time.perf_counter()
        answers = predict(np.stack([one.image for one in batch]))
        seconds = time.perf_counter() - begun
        self._metrics.inference.observe(seconds)
        self._metrics.batches.observe(len(batch))
        self._seconds += SMOOTHING * (seconds / len(batch) - self._seconds)
        return answers


def _begun(batch: list[_Waiting]) -> list[_Waiting]:
    """Those whose request has not been cancelled, and no longer can be."""
    return [one for one in batch if one.answer.set_running_or_notify_cancel()]


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for one in batch:
        one.answer.set_exception(error)


def _gone() -> Refused:
    return Refused(503, "a model that has ended", "one at work", "see the server's log", 1)
