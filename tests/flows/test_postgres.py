"""Prefect's server on PostgreSQL: the flow's tests against it, and databases that do not answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from data_catalog.base.config import UserError
from flows import services
from flows.database import check_database
from tests.flows.test_flow import *  # noqa: F403 - the same tests, with the server below
from tests.support.postgres import postgres_folder, postgres_server

PROGRAMS = postgres_folder()
pytestmark = [
    pytest.mark.slow,
    # A service outlives, by its nature, the object that started it.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.usefixtures("prefect_server"),
]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    if PROGRAMS is None:
        pytest.skip("PostgreSQL's programs are not on this machine")
    with postgres_server(PROGRAMS) as url:
        yield url


@pytest.fixture(scope="module")
def prefect_server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """As `ssld up --database` starts it."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SSLD_HOME", "PREFECT_HOME"):
            patch.setenv(name, str(home))
        services.prepare()
        api = f"http://127.0.0.1:{port}/api"
        server = services.server(port)
        try:
            services.start_server(port, "127.0.0.1", database, lambda message: None)
            assert server.has_variable(services.DATABASE, database)
            with pytest.raises(UserError, match="the server is up with another database"):
                services.start_server(port, "127.0.0.1", f"{database}2", lambda message: None)
            with temporary_settings({PREFECT_API_URL: api}):
                yield
                # What is not sent while the server is there, Prefect sends for minutes at the end.
                APILogWorker.instance().drain()
                EventsWorker.drain_all()
        finally:
            server.stop(30)


def test_the_flows_runs_are_in_the_database(database: str) -> None:
    import asyncio

    import asyncpg

    async def count() -> int:
        connection = await asyncpg.connect(database.replace("+asyncpg", ""))
        try:
            return await connection.fetchval("SELECT count(*) FROM flow_run")
        finally:
            await connection.close()

    assert asyncio.run(count()) > 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda url: url.replace("+asyncpg", ""), r"expected postgresql\+asyncpg://"),
        (lambda url: url.replace("of%2F", "of%2f-"), "password authentication failed"),
        (lambda url: url + "2", "does not exist"),
        (lambda url: url.rpartition(":")[0] + ":1/prefect", "no such database answers"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_without_its_password(
    database: str, change: object, told: str
) -> None:
    assert callable(change)
    check_database(database)
    with pytest.raises(UserError, match=told) as refused:
        check_database(change(database))
    assert "the%40test" not in str(refused.value)
