"""A page in a real browser, driven through Chromium's own protocol: nothing else to install."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-port=0",
]


class Tab:
    """A page; `errors` collects what its console and its security policy complain of."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._numbers = connection, itertools.count(1)
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Result of a command."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(timeout=200))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            if message["method"] == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
            if (
                message["method"] == "Log.entryAdded"
                and message["params"]["entry"]["level"] == "error"
            ):
                self.errors.append(message["params"]["entry"]["text"])

    def value(self, script: str) -> Any:
        """Value of an expression, JSON."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait(self, script: str) -> Any:
        """Value of an expression once it is true."""
        until = time.monotonic() + 200
        while not (value := self.value(script)):
            assert time.monotonic() < until, f"{script}: never true; {self.errors}"
            time.sleep(0.05)
        return value

    def press(self, key: str, command: bool = False) -> None:
        """Press and release a key of the keyboard, `command` with Control held."""
        code = ord(key.upper()) if len(key) == 1 else 0  # without it Control and a letter are none
        typed = {"text": key} if len(key) == 1 and not command else {}
        names = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 2 * command}
        for kind, text in (("keyDown", typed), ("keyUp", {})):
            self.call("Input.dispatchKeyEvent", type=kind, **names, **text)

    def drop(self, path: Path, x: int, y: int) -> None:
        """Drop a file on the page, as from a file manager."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def look(self, width: int, height: int, scheme: str) -> bytes:
        """A PNG of the page at this size, `scheme` being light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])


@contextmanager
def open_tab(folder: Path, url: str) -> Iterator[Tab]:
    """A tab at `url`; skips the test where there is no Chromium."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium: install it (apt-get install chromium) to test the page")
    command = [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        address = _address(folder / "profile" / "DevToolsActivePort", process)
        with urlopen(Request(f"http://{address}/json/new", method="PUT"), timeout=200) as new:
            debugger = json.load(new)["webSocketDebuggerUrl"]
        with connect(debugger, max_size=None, proxy=None) as connection:
            tab = Tab(connection)
            tab.call("Page.navigate", url=url)  # now that errors are heard
            tab.wait("document.readyState === 'complete'")
            yield tab
    finally:
        process.terminate()
        process.wait(20)


def _address(file: Path, process: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + 200
    while not (file.exists() and file.read_text().strip()):
        assert process.poll() is None, "Chromium has ended"
        assert time.monotonic() < until, "Chromium does not answer"
        time.sleep(0.05)
    return f"127.0.0.1:{file.read_text().split()[0]}"
