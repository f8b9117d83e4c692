"""Prefect's API that a run reports to: of the server that is up, else of a temporary one.

The temporary server is a process of the run's own and ends with it. Its socket is the run's: one
that is killed leaves connections waiting, not refused, until another has taken its place. Refused,
Prefect's client would ask again at twice the interval each time, and a run would never end.
"""

import atexit
import logging
import os
import signal
import socket
import threading
import time
from concurrent.futures import Future
from pkgutil import resolve_name
from typing import Any

from data_catalog.base.errors import UserError
from flows import services
from ppcls_core.cli.common import log, tell
from ppcls_core.runtime.paddle import import_paddle
from ppcls_core.runtime.processes import Child

STOP_SECONDS = 10  # for the temporary server to write what it has received
MOST_DEATHS = 3  # one after the other, of servers that never answered
SAVE_SECONDS = 30  # for a stage to save its work, where no server can be had any more
# Its variables, as Prefect sets them for its own.
TEMPORARY = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_API_URL": "",
}
_FLOW = "flows.ssld:ssld"  # imports Prefect


def reachable_server() -> str:
    """API of the active profile's server if it answers, else of a temporary one, which ends with
    this program. Raises UserError: that does not start, or there is no memory for Paddle."""
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    api = PREFECT_API_URL.value()
    if api and services.is_healthy(api):
        return api
    logging.getLogger("prefect.flow_runs").addFilter(is_no_link)
    log("starting Prefect's server for this run, and Paddle ...")
    server = TemporaryServer()
    atexit.register(server.stop)  # after Prefect's own, which send the last events
    resolve_name(_FLOW)  # meanwhile, as Paddle, which every stage imports that has to run
    import_paddle()
    server.wait(PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value())
    return server.api


def is_no_link(record: logging.LogRecord) -> bool:
    """A filter: leaves out Prefect's link to the dashboard, which a temporary server has not."""
    return not record.getMessage().startswith("View at ")


class TemporaryServer:
    """A server in a child process, which is replaced when it dies."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._stopping = False
        self._answers: Future[None] = Future()
        self._child = self._start()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    @property
    def api(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/api"

    def wait(self, seconds: float) -> None:
        """Until it answers. Raises UserError: not within `seconds`, or it has ended."""
        try:
            self._answers.result(seconds)
        except TimeoutError:
            raise UserError(
                f"Prefect's temporary server did not start within {seconds} s; set "
                "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS higher, or start one with "
                "`ssld up`"
            ) from None

    def stop(self) -> None:
        """End it once it has written what it has received, or after STOP_SECONDS."""
        self._stopping = True
        self._child.stop()
        self._keeper.join(STOP_SECONDS)
        self._child.kill()
        self._keeper.join()
        self._child.close()
        self._socket.close()

    def _start(self) -> Child:
        child = Child(
            "flows.temporary_server:open_server",
            (self._socket.fileno(),),
            name="Prefect's temporary server",
            remedy="what it has recorded is kept",
            environment=TEMPORARY,
            with_paddle=False,
            descriptors=[self._socket.fileno()],
        )
        child.send(None)
        return child

    def _keep(self) -> None:
        """Hear that it answers, and replace it when it dies, until it is to stop."""
        deaths = 0  # since one has answered
        while True:
            kind, value = self._child.receive()
            began = self._answers.done()
            if kind == "report":
                deaths = 0
                if not began:
                    self._answers.set_result(None)
                continue
            if not began:
                self._answers.set_exception(_no_start(kind, value))
            if not began or self._stopping:
                return
            deaths += 1
            if deaths > MOST_DEATHS:
                return _end_run(
                    f"{value}; so did {MOST_DEATHS} before it, whose messages are above: a run "
                    "needs one to report to. Free memory or disk, or start one with `ssld up`, and "
                    "run again: finished work is kept"
                )
            log(f"{value}; another takes its place")
            self._child.close()
            self._child = self._start()


def _end_run(reason: str) -> None:
    """End this program, whose main thread may wait for a server for ever, once it had time to save
    its work."""
    tell(f"error: {reason}")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SAVE_SECONDS)
    os._exit(2)


def _no_start(kind: str, value: Any) -> BaseException:
    """Why a server has ended before it answered, by what was received of it."""
    if kind == "answer" or isinstance(value, SystemExit):
        return UserError("Prefect's temporary server did not start; its messages are above")
    return UserError(f"{value}; run again") if isinstance(value, UserError) else value
