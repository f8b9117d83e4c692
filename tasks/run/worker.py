"""One of the processes of a training stage: `python -m tasks.run.worker FILE`, see processes.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json
from ppcls_core.runtime.monitor import Interrupted
from tasks.dag import stage_named
from tasks.recipe import Recipe
from tasks.run.stage import Work
from tasks.run.store import Store


class Parent:
    """The process that started the stage: the Monitor of the first worker, where errors go."""

    def __init__(self) -> None:
        self._socket = socket.socket(fileno=os.dup(sys.stdin.fileno()))
        self._signalled = False
        self.listens = False  # whether it is told of progress
        threading.Thread(target=self._end_with_it, daemon=True).start()

    def tell(self, kind: str, *values: object) -> None:
        self._socket.send(json.dumps([kind, *values]).encode())

    @property
    def stop_requested(self) -> bool:
        return self._signalled

    def stop(self, number: int, frame: FrameType | None) -> None:
        """What SIGTERM does."""
        self._signalled = True

    def progress(self, done: int, total: int, unit: str) -> None:
        if self.listens:
            self.tell("progress", done, total, unit)

    def metrics(self, values: Mapping[str, float]) -> None:
        if self.listens:
            self.tell("metrics", dict(values))

    def note(self, message: str) -> None:
        if self.listens:
            self.tell("note", message)

    def _end_with_it(self) -> None:
        self._socket.recv(1)  # it never says anything
        os._exit(1)


def run(order: dict[str, Any], parent: Parent) -> None:
    """Run the stage, and tell its outcome."""
    from ppcls_core.engine.distributed import join

    signal.signal(signal.SIGTERM, parent.stop)  # after Paddle's import, which has its own
    parent.listens = join().is_first
    store = Store(Path(order["store"]))
    loaded = {name: store.load(name, key) for name, key in order["inputs"].items()}
    work = Work(
        order["stage"],
        Recipe.model_validate(order["recipe"]),
        Path(order["directory"]),
        order["key"],
        {name: result for name, result in loaded.items() if result is not None},
        parent,
    )
    outcome = stage_named(work.stage).run(work)
    if parent.listens:
        parent.tell("outcome", asdict(outcome))


def main() -> int:
    """The exit status; what it means the parent has been told."""
    parent = Parent()
    try:
        run(read_json(Path(sys.argv[1])), parent)
    except UserError as error:
        parent.tell("UserError", str(error))
        return 2
    except Interrupted:
        parent.tell("Interrupted")
    except OSError as error:
        parent.tell("OSError", error.errno, error.strerror, error.filename)
        return 2
    except Exception:
        parent.tell("RuntimeError", traceback.format_exc()[-10_000:])
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
