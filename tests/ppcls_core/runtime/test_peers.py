"""The others of a training notice at once when a process has ended, and say how."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from ppcls_core.runtime.processes import Peers, process_place
from tests.conftest import PROJECT

# One whose main thread hangs, as in an exchange with a process that is gone.
HANGS = """
import sys, time
from ppcls_core.runtime.processes import Peers
peers = Peers({1: int(sys.argv[1])})
print("ready", flush=True)
time.sleep(float(sys.argv[2]))
"""


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "rank 1 with -9 (SIGKILL: killed, as for want of memory)"),
        (signal.SIGTERM, "rank 1 with -15 (SIGTERM: a signal)"),
    ],
)
def test_how_a_process_ended_is_known(number: int, words: str):
    with sleeper() as process, sleeper() as other:
        peers = Peers({1: process.pid, 2: other.pid})
        assert peers.text() == ""
        process.send_signal(number)
        assert peers.text(30) == words
        assert peers.ended() == {1: -number}
        other.kill()


def test_what_another_process_has_waited_for_is_unknown():
    with sleeper() as process:
        process.kill()
    assert Peers({3: process.pid}).text() == "rank 3 with unknown exit status"


def test_a_killed_process_is_told_of_though_the_main_thread_hangs():
    with sleeper() as process:
        command = [sys.executable, "-c", HANGS, str(process.pid), "100"]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as hanging:
            assert hanging.stdout.readline() == "ready\n"
            process.kill()
            assert "has ended: rank 1 with -9" in hanging.stderr.readline()
            assert hanging.poll() is None
            hanging.kill()


def test_an_asked_for_end_is_not_told():
    with sleeper() as process:
        command = [sys.executable, "-c", HANGS, str(process.pid), "3"]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as other:
            assert other.stdout.readline() == "ready\n"
            process.terminate()
            assert other.communicate()[1] == ""


def test_the_place_of_a_process_holds_its_machine_and_id():
    place, pid = process_place()
    assert pid == os.getpid()
    assert len(place) > 40
