"""A PostgreSQL server of a test's own, where the machine has its programs."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "of/the@test"  # with what has to be quoted in an address
_QUOTED = "of%2Fthe%40test"
_PLACES = "usr/lib/postgresql/*/bin/initdb"  # Debian keeps it off the path


def postgres_folder() -> Path | None:
    """The folder of PostgreSQL's programs; None where there is none."""
    on_path = shutil.which("initdb")  # perhaps a link, with none of the others beside it
    found = [Path(on_path).resolve()] if on_path else sorted(Path("/").glob(_PLACES))
    return found[-1].parent if found else None


@contextmanager
def postgres_server(programs: Path) -> Iterator[str]:
    """A server on loopback with an empty database `prefect`; its address for `ssld up`."""
    with tempfile.TemporaryDirectory(prefix="ssld-postgres-") as name, socket.socket() as free:
        folder, user = Path(name), _user()
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        data = str(folder / "data")

        def call(program: str, *options: str, **variables: str) -> None:
            subprocess.run(
                [*_as(user), str(programs / program), *options],
                check=True,
                capture_output=True,
                cwd=folder,
                env={**os.environ, "LC_ALL": "C", **variables},
                timeout=300,
            )

        password = f"--pwfile={folder / 'password'}"
        call("initdb", "-D", data, "-U", "ssld", "-A", "scram-sha-256", password, "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = str(folder / "log")
        call("pg_ctl", "start", "-w", "-t", "240", "-D", data, "-l", log, "-o", options)
        try:
            where = ("-h", "127.0.0.1", "-p", str(port), "-U", "ssld")
            call("createdb", *where, "prefect", PGPASSWORD=PASSWORD)
            yield f"postgresql+asyncpg://ssld:{_QUOTED}@127.0.0.1:{port}/prefect"
        finally:
            call("pg_ctl", "stop", "-w", "-D", data, "-m", "immediate")


def _user() -> str:
    """Who runs it: PostgreSQL refuses to be run by root."""
    return pwd.getpwuid(os.getuid()).pw_name if os.getuid() else "nobody"


def _as(user: str) -> list[str]:
    if os.getuid():
        return []
    ids = pwd.getpwnam(user)
    return ["setpriv", f"--reuid={ids.pw_uid}", f"--regid={ids.pw_gid}", "--clear-groups"]
