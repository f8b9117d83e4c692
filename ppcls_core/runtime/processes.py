"""Work in child processes, which share neither memory nor Paddle's inference engines with this one.

    with Child("package.module:start", (argument,)) as child:
        answer = child(request, report)

In the child `start(argument)` runs once. It returns the function `answer(request, parent)` that
computes an answer for each request, one after another. Requests, answers, reports of progress and
exceptions go through a socket pair, pickled. Either process reads its end when the other dies.
"""

import os
import pickle
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn, Self

from data_catalog.base.config import UserError
from ppcls_core.runtime.paddle import import_paddle

POLL_SECONDS = 0.2  # between two looks at a request to stop
# For the other children after one has failed: after a request to stop they may save their work.
END_SECONDS, SAVE_SECONDS = 10.0, 60.0
LAST_WORDS = 2000  # characters of the log of a child that has died
_STOP = "stop"


class PeerEnded(UserError):
    """Work failed because another process that takes part in it has ended: not the cause itself."""


class ChildDied(UserError):
    """A process that works for this one was killed: that says nothing of the work itself."""


_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)  # signals that a fault of the work does not send


def exit_text(status: int) -> str:
    """An exit status in words; -N is the signal N, as `subprocess` has it."""
    if status >= 0:
        return str(status)
    why = "killed, as for want of memory" if -status == signal.SIGKILL else "a signal"
    return f"{status} ({signal.Signals(-status).name}: {why})"


def ignore(*values: object) -> None:
    """Take a report and do nothing."""


@dataclass(eq=False)
class Child:
    """A process that answers requests; it ends with `close`, and with this one however that ends.

    Args:
        target: "module:function", called in the child with `arguments`; gives the function that
            answers. It and whatever travels to the child and back must be picklable.
        name, remedy: who has ended and what to do, for the message when it dies.
        environment: variables beside those of this process.
        log: file for its standard output and error, which are this process's by default.
        with_paddle: whether the child imports Paddle first, as pickled arguments may do otherwise.
        descriptors: open files of this process that the child has under the same numbers.
    """

    target: str
    arguments: tuple[object, ...] = ()
    name: str = "a worker process"
    remedy: str = "see its messages above and run again: finished work is kept"
    environment: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    with_paddle: bool = True
    descriptors: Sequence[int] = ()

    def __post_init__(self) -> None:
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        code = f"from {__name__} import main; main()"
        output = self.log.open("ab") if self.log else None
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code, str(theirs.fileno()), self.target],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environment, "PYTHONPATH": path},
                pass_fds=[theirs.fileno(), *self.descriptors],
                process_group=0,  # a terminal's Ctrl-C is for this process alone, which decides
            )
        if output:
            output.close()
        self.pipe = Connection(ours.detach())
        self._send((self.target, self.with_paddle))
        self._send(self.arguments)

    def __call__(self, request: object, report: Callable[..., None] = ignore) -> Any:
        """The answer to `request`; each `parent.report(...)` in the child becomes `report(...)`.
        Raises UserError: the child's own, or it has died; Exception: whatever else its function
        raised, with the child's traceback as a note."""
        return gather([self], request, report)[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def has_ended(self) -> bool:
        """Whether it answers no more."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it, whatever it does: a request that it works on fails with its death."""
        self._process.kill()  # not SIGTERM, upon which Paddle prints its stack

    def close(self) -> None:
        """As `kill`; nothing can be received any more."""
        self.pipe.close()
        self.kill()
        self._process.wait()

    def send(self, request: object) -> None:
        """Send a request; that the child has died shows when its answer is received."""
        self._send((request,))

    def stop(self) -> None:
        """Make `parent.stop_requested` true in the child, for the request that it works on."""
        self._send(_STOP)

    def _send(self, message: object) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(message)

    def receive(self) -> tuple[str, Any]:
        """("report", values), ("answer", value) or ("error", exception)."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return "error", self._death()

    def _death(self) -> UserError:
        status = self._process.wait()
        text = f"{self.name} has ended with {exit_text(status)}; {self.remedy}"
        words = self.log.read_text(errors="replace")[-LAST_WORDS:].strip() if self.log else ""
        kind = ChildDied if -status in _FROM_OUTSIDE else UserError
        return kind(f"{text}\n{words}" if words else text)


def gather(
    children: Sequence[Child],
    request: object,
    report: Callable[..., None] = ignore,
    stop_requested: Callable[[], bool] = lambda: False,
) -> list[Any]:
    """The answers of all `children` to one request, in their order; they work at once.

    When one fails while others work it is ended, which those who wait for it notice; when a stop
    was requested, which is passed on to all, it is not: others may still save their work. They have
    END_SECONDS, or SAVE_SECONDS, to end. What is raised is the first error that is no PeerEnded.
    """
    answers: dict[Child, Any] = {}
    errors: list[BaseException] = []
    pending = {child.pipe: child for child in children}
    for child in children:
        child.send(request)
    stopped, deadline = False, float("inf")
    while pending and time.monotonic() < deadline:
        if stop_requested():
            stopped = True
            for child in pending.values():
                child.stop()  # each time: one that only begins has not heard of it
        for pipe in wait(list(pending), POLL_SECONDS):
            child = pending[pipe]  # pyright: ignore[reportArgumentType]
            kind, value = child.receive()
            if kind == "report":
                report(*value)
                continue
            del pending[child.pipe]
            if kind == "answer":
                answers[child] = value
                continue
            errors.append(value)
            patience = SAVE_SECONDS if stopped else END_SECONDS
            deadline = min(deadline, time.monotonic() + patience)
            if pending and not stopped:
                child.close()
    if errors:
        raise next((e for e in errors if not isinstance(e, PeerEnded)), errors[0])
    return [answers[child] for child in children]


class Parent:
    """The process that started this one, as the function that answers sees it."""

    def __init__(self, pipe: Connection) -> None:
        self.stop_requested = False
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._pipe, self._sending = pipe, threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def report(self, *values: object) -> None:
        """Tell of progress; from any thread."""
        self.send("report", values)

    def send(self, kind: str, value: object) -> None:
        """Send an answer, a report or an error, as `Child.receive` gives it."""
        with self._sending:
            self._pipe.send((kind, value))

    def next_request(self) -> Any:
        """Wait for the next request; this process ends when none can come any more."""
        return self._requests.get()

    def _listen(self) -> None:
        try:
            while True:
                data = self._pipe.recv_bytes()
                try:
                    message = pickle.loads(data)
                except Exception as error:  # noqa: BLE001 - whatever unpickling a class does
                    self.send("error", _portable(error))  # else both would wait for ever
                    continue
                if message == _STOP:
                    self.stop_requested = True
                else:
                    self._requests.put(*message)
        except (EOFError, OSError):  # the parent has closed its end, or died
            os._exit(0)  # at once: Paddle takes half a second of computing to end


def main() -> NoReturn:
    """The child process."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides what becomes of its work
        signal.signal(number, signal.SIG_IGN)
    pipe = Connection(int(sys.argv[1]))
    target, with_paddle = pipe.recv()
    if with_paddle:
        import_paddle()
    arguments = pipe.recv()
    parent = Parent(pipe)
    try:
        answer = pkgutil.resolve_name(target)(*arguments)
    except BaseException as error:  # noqa: BLE001 - raised in the parent, at its first request
        failure = _portable(error)

        def answer(request: object, parent: Parent) -> NoReturn:
            raise failure

    while True:
        request = parent.next_request()
        parent.stop_requested = False
        try:
            parent.send("answer", answer(request, parent))
        except BaseException as error:  # noqa: BLE001 - raised in the parent
            parent.send("error", _portable(error))


def _portable(error: BaseException) -> BaseException:
    """`error` as it can travel: with its traceback as a note, unless it is a user's mistake."""
    if not isinstance(error, UserError) and not hasattr(error, "__notes__"):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever a class of exceptions does there
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
