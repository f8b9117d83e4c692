"""The database in which Prefect's server keeps its records, where it is not a file of SQLite."""

import asyncio

import asyncpg

from data_catalog.base.errors import UserError

POSTGRES = "postgresql+asyncpg://"
SECONDS = 10  # until it has answered


def check_database(url: str) -> None:
    """Raise UserError unless `url` is that of a PostgreSQL database that answers.

    No message holds the url: it has the password.
    """
    if not url.startswith(POSTGRES):
        raise UserError(f"--database: expected {POSTGRES}USER:PASSWORD@HOST:PORT/NAME")
    try:
        asyncio.run(_greet(url.replace(POSTGRES, "postgresql://", 1)))
    except (OSError, ValueError, TimeoutError, asyncpg.PostgresError) as error:
        why = str(error) or type(error).__name__
        raise UserError(
            f"--database: no such database answers ({why}); start it, make the database, and "
            "correct user, password, host, port or name"
        ) from None


async def _greet(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=SECONDS)
    await connection.close()
