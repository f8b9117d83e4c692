"""The others of a training notice at once when a process has ended, and say how."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_core.runtime.ranks import Peers, process_place
from tests.conftest import PROJECT

# One whose main thread hangs, as in an exchange with a process that is gone.
HANGS = """
import sys, time
from ppcls_core.runtime.ranks import Peers
Peers({1: int(sys.argv[1])}).start_guard()
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
        assert peers.text(100) == words
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


@pytest.mark.slow
def test_an_asked_for_end_is_not_told():
    with sleeper() as process:
        command = [sys.executable, "-c", HANGS, str(process.pid), "3"]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as other:
            assert other.stdout.readline() == "ready\n"
            process.terminate()
            assert other.communicate()[1] == ""


# One in an exchange that nothing ends, as NCCL's with a process that is gone.
EXCHANGES = """
import sys, time
from ppcls_core.runtime import ranks
ranks.HANG_SECONDS = 0.5
peers = ranks.Peers({rank: int(pid) for rank, pid in enumerate(sys.argv[1:], 1)})
peers.start_guard()
with peers.exchange():
    print("ready", flush=True)
    time.sleep(100)
"""


def exchanging(*peers: int) -> list[str]:
    return [sys.executable, "-c", EXCHANGES, *map(str, peers)]


def test_an_exchange_with_a_lost_process_ends_this_one_and_says_why():
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with (
        sleeper() as process,
        subprocess.Popen(exchanging(process.pid), env=environment, **pipes) as waiting,
    ):
        assert waiting.stdout.readline() == "ready\n"
        process.kill()
        said = waiting.communicate(timeout=200)[1]
        assert waiting.returncode == 2
    assert "waits in vain for one that has ended (rank 1 with -9 (SIGKILL" in said


def test_an_exchange_ends_with_the_launcher(tmp_path: Path):
    """Which was killed: those that it started have then nobody who ends them."""
    code = (
        "import subprocess, sys, time\n"
        "subprocess.Popen(sys.argv[1:], stdout=sys.stdout, stderr=open('said', 'w'))\n"
        "time.sleep(100)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with sleeper() as other:  # a process of the training that lives, and is silent
        command = [sys.executable, "-c", code, *exchanging(other.pid)]
        pipes = {"stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as launcher:
            assert launcher.stdout.readline() == "ready\n"
            launcher.kill()
            assert launcher.stdout.read() == ""  # until the last that has it open ends
        other.kill()
    assert "has ended (the launcher)" in (tmp_path / "said").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "seconds", "said"),
    [(signal.SIGTERM, 3, "done\n"), (signal.SIGKILL, 1000, "")],
    ids=["asked", "killed"],
)
def test_outside_an_exchange_it_may_save_its_work(number: int, seconds: int, said: str):
    """As when all are asked to stop; for a while, where another was killed."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    code = EXCHANGES.replace("time.sleep(100)", "pass")
    code += f"time.sleep({seconds})\nprint('done')\n"
    code = code.replace("HANG_SECONDS = 0.5", "ALONE_SECONDS = 0.5")
    with sleeper() as process:
        command = [sys.executable, "-c", code, str(process.pid)]
        pipes = {"stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as other:
            assert other.stdout.readline() == "ready\n"
            process.send_signal(number)
            assert other.communicate()[0] == said


def test_the_place_of_a_process_holds_its_machine_and_id():
    place, pid = process_place()
    assert pid == os.getpid()
    assert len(place) > 40
