"""What tests start never outlives them."""

import subprocess
import sys

import pytest

from tests.conftest import PROJECT
from tests.support.processes import is_running, wait_until

CODE = """
import os, signal, subprocess, sys
from tests.support.guard import start_guard
start_guard()
apart = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(apart.pid, flush=True)
os.kill(os.getpid(), getattr(signal, sys.argv[1]))
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_server_ends_with_a_killed_test(how):
    command = [sys.executable, "-c", CODE, how]
    killed = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, check=False)
    assert killed.returncode < 0
    assert wait_until(lambda: not is_running(int(killed.stdout)), 60)
