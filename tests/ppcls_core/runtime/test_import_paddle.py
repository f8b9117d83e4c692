"""Paddle's import leaves standard error and signals as they were."""

import importlib
import os
import signal
import subprocess
import sys

import pytest

from ppcls_core.runtime.paddle import import_paddle
from tests.conftest import PROJECT

CODE = """
import logging, signal, sys
from ppcls_core.runtime.paddle import import_paddle

def handler(number, frame):
    print("handled")

signal.signal(signal.SIGTERM, handler)
import_paddle()
import paddle
for name in [*logging.root.manager.loggerDict, None]:
    for kept in logging.getLogger(name).handlers:
        if type(kept) is logging.StreamHandler and kept.stream is not sys.stdout:
            kept.stream.write(f"heard of {name}\\n")
from paddle.base.log_helper import get_logger
from paddle.base import framework
logging.getLogger("paddle.base.framework").warning("a late warning")
import warnings
warnings.warn("another late warning")
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.slow
def test_warnings_after_paddles_import_are_heard_and_its_advice_is_not():
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "a late warning" in done.stderr
    assert "another late warning" in done.stderr
    assert "heard of paddle" in done.stderr
    assert "OMP_NUM_THREADS" not in done.stderr
    assert done.stdout == "handled\n"


def test_ctrl_c_waits_for_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "paddle", raising=False)
    done = list[str]()

    def loading(name: str) -> None:
        signal.raise_signal(signal.SIGINT)
        done.append(name)

    monkeypatch.setattr(importlib, "import_module", loading)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        import_paddle()
    assert done == ["paddle"]
    assert signal.getsignal(signal.SIGINT) is before
