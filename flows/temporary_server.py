"""Prefect's API for one run, in a child process that ends with it however it ends.

Prefect would start such a server itself, but in the terminal's process group: Ctrl-C would end it
at once, while the run has work to save and an end to report.
"""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import PREFECT_HOME

from data_catalog.base.files import locked
from ppcls_core.runtime.processes import Parent

_LOST = "Prefect's server could not record an event for its dashboard; no result is concerned"


def in_one_line(record: logging.LogRecord) -> bool:
    """A filter: an error of one of Prefect's services, which goes on after it, becomes a warning
    without a traceback, which in a run's terminal looks like the end of the run. An event of which
    the record failed is recorded again; only what fails every time is told."""
    said = record.getMessage()
    if said == "Failed in consume_loop":
        return False
    if "will be moved to the dead letter queue" in said:
        record.msg, record.args = _LOST, ()
    error = record.exc_info and record.exc_info[1]
    if error and record.name.startswith("prefect.server"):
        what = (str(error).splitlines() or [type(error).__name__])[0]
        record.msg = f"{record.getMessage()}: {what}; Prefect's server goes on"
        record.args, record.exc_info = (), None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


class _Server(uvicorn.Server):
    """Reports once it answers, and ends when its parent asks for it."""

    def __init__(self, parent: Parent) -> None:
        super().__init__(uvicorn.Config(create_app, factory=True, log_level="error", lifespan="on"))
        self._parent = parent

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Two that make the same database at once fail.
        with locked(PREFECT_HOME.value() / "ssld.lock", wait=True):
            await super().startup(sockets)
        for handler in logging.root.handlers:
            handler.addFilter(in_one_line)
        if self.started:
            self._parent.report()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._parent.stop_requested

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End in silence: Prefect, SQLAlchemy and uvicorn tell with their tracebacks of the writes
        that are cancelled, and of services that had not begun yet."""
        logging.disable(logging.ERROR)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's would end it upon SIGTERM; that is for the parent to decide."""
        yield


def open_server(descriptor: int) -> Callable[[None, Parent], None]:
    """The child's function: it serves on the socket of that number until it is asked to stop."""

    def serve(request: None, parent: Parent) -> None:
        with socket.socket(fileno=descriptor) as bound:
            _Server(parent).run([bound])

    return serve
