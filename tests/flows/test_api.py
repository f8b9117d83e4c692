"""The temporary server of a run: replaced when it is killed, gone when the run is."""

import asyncio
import logging
import os
import signal
from pathlib import Path

import httpx
import pytest
import uvicorn

from data_catalog.base.errors import UserError
from flows import api, services
from flows.api import is_no_link
from flows.dashboard import in_plain_words
from flows.temporary_server import _Server, in_one_line
from tests.support.processes import wait_until, with_environment


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Folder of the server's records, by which its processes are known."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    return str(tmp_path)


def test_an_error_of_a_service_is_one_line() -> None:
    error = OSError("database is locked\n[SQL: INSERT INTO ...]")
    for name, told in (
        ("prefect.server.events", "Failed in loop: database is locked; Prefect's server goes on"),
        ("prefect.flow_runs", "Failed in loop"),
    ):
        record = logging.LogRecord(
            name, logging.ERROR, "", 0, "Failed in %s", ("loop",), (OSError, error, None)
        )
        assert in_one_line(record)
        assert record.getMessage() == told
        assert (record.exc_info is None) == name.startswith("prefect.server")


def test_an_event_is_told_once_it_is_lost() -> None:
    """Prefect gives it to its services three times again."""
    name = "prefect.server.utilities.messaging.memory"
    error = (OSError, OSError("database is locked"), None)
    failed = logging.LogRecord(name, logging.ERROR, "", 0, "Failed in consume_loop", (), error)
    assert not in_one_line(failed)
    lost = "Message failed after %d retries and will be moved to the dead letter queue"
    record = logging.LogRecord(name, logging.WARNING, "", 0, lost, (4,), None)
    assert in_one_line(record)
    assert record.getMessage().startswith("Prefect's server could not record an event")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Finished in state Completed('done in 4.2 s: /a (b)')", "done in 4.2 s: /a (b)"),
        ('Finished in state Cached("unchanged: /it\'s")', "unchanged: /it's"),
        ("Finished in state Cached('unchanged: /a', type=COMPLETED)", "unchanged: /a"),
        ("Finished in state Failed('no disk')", "Finished in state Failed('no disk')"),
    ],
)
def test_success_is_told_without_the_words_of_prefect(said: str, told: str) -> None:
    record = logging.LogRecord("prefect.task_runs", logging.INFO, "", 0, said, (), None)
    assert in_plain_words(record)
    assert record.getMessage() == told


def test_that_a_flow_begins_is_no_news() -> None:
    said = "Beginning flow run 'demo' for flow 'ssld'"
    record = logging.LogRecord("prefect.flow_runs", logging.INFO, "", 0, said, (), None)
    assert not in_plain_words(record)


@pytest.mark.parametrize(("said", "shown"), [("View at http://a/b", False), ("starts", True)])
def test_a_server_without_a_dashboard_is_not_linked(said: str, shown: bool) -> None:
    record = logging.LogRecord("prefect.flow_runs", logging.INFO, "", 0, said, (), None)
    assert is_no_link(record) == shown


def test_a_server_that_ends_says_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def end(_: object, sockets: object = None) -> None:
        for name in ("uvicorn.error", "sqlalchemy.pool", "prefect.server"):
            logging.getLogger(name).error("Traceback (most recent call last): ...")

    monkeypatch.setattr(uvicorn.Server, "shutdown", end)
    try:
        asyncio.run(_Server.shutdown(object.__new__(_Server)))
    finally:
        logging.disable(logging.NOTSET)
    assert caplog.records == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_requests_wait_for_the_server_that_takes_a_killed_one_s_place(
    home: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = api.TemporaryServer()
    server.wait(300)
    assert services.is_healthy(server.api)
    (first,) = with_environment(home)
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: first not in with_environment(home), 60)
    assert httpx.get(f"{server.api}/health", timeout=300).status_code == 200
    (second,) = with_environment(home)
    assert second != first
    assert "SIGKILL" in (said := capsys.readouterr().out)
    assert "another takes its place" in said
    server.stop()
    assert with_environment(home) == []


class Dying:
    """A child of which the first server answers, then dies, as do all that follow, at once."""

    started = 0

    def __init__(self, *target: object, **options: object) -> None:
        Dying.started += 1
        died = ("error", UserError(f"server {Dying.started} has ended with 1"))
        self.heard = [("report", ()), died] if Dying.started == 1 else [died]

    def receive(self) -> tuple[str, object]:
        return self.heard.pop(0)

    def send(self, request: object) -> None: ...

    stop = kill = close = lambda self: None


def test_servers_that_die_at_once_are_not_replaced_for_ever(
    home: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends: list[str] = []
    monkeypatch.setattr(api, "Child", Dying)
    monkeypatch.setattr(api, "_end_run", ends.append)
    server = api.TemporaryServer()
    server.wait(60)
    server._keeper.join(60)
    server.stop()
    assert Dying.started == 1 + api.MOST_DEATHS
    (told,) = ends
    assert told.startswith("server 4 has ended with 1; so did 3 before it")
    assert capsys.readouterr().out.count("another takes its place") == api.MOST_DEATHS


def test_a_server_that_dies_before_it_answers_is_told(home: str) -> None:
    server = api.TemporaryServer()
    (first,) = with_environment(home)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(UserError, match=r"SIGKILL.*; run again"):
        server.wait(300)
    server.stop()
    assert with_environment(home) == []
