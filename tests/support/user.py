"""Someone with a fresh home who types commands from an unrelated folder."""

import os
import socket
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
SLOW = 5  # what the machine may be slower than usual


class User:
    """Whose store, records of Prefect and caches lie in `folder`, and nothing of whom elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "home" / "store"
        own = ("PREFECT_", "SSLD_HOME", "PYTEST_")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        homes = {
            "PREFECT_HOME": str(folder / "prefect"),
            "SSLD_HOME": str(folder / "home"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        self.environment = clean | homes | {"PATH": f"{BIN}:{os.environ['PATH']}"}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def types(self, *command: str) -> str:
        """What a command prints that ends well."""
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=SLOW * 170,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self) -> str:
        """Start the services on the user's port; what is printed."""
        return self.types("ssld", "up", "--port", str(self.port))
