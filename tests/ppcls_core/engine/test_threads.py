"""Threads of a training by the size of its steps."""

from __future__ import annotations

import subprocess
import sys

import pytest
from paddle import nn

from ppcls_core.engine.threads import OPERATIONS, threads_of_step
from tests.conftest import PROJECT

OPERATIONS_A_PIXEL = 2 * 3 * 8  # of this layer, each a multiplication and an addition


@pytest.fixture
def layer(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    return nn.Sequential(nn.Conv2D(3, 8, 1))


@pytest.mark.parametrize(("share", "threads"), [(0.1, 1), (1.9, 1), (2.1, 2), (3.1, 3), (99, 4)])
def test_each_thread_has_enough_to_do(layer, share, threads):
    forward = OPERATIONS_A_PIXEL * 32 * 32
    num_images = round(share * OPERATIONS / (3 * forward))
    assert threads_of_step(layer, [], 32, num_images) == threads


def test_a_teacher_that_is_asked_counts_its_forward_pass(layer):
    forward = OPERATIONS_A_PIXEL * 32 * 32
    num_images = round(2.1 * OPERATIONS / (6 * forward))
    assert threads_of_step(layer, [], 32, num_images) == 1
    assert threads_of_step(layer, [layer] * 3, 32, num_images) == 2


THREADS = """
import os, threading
import ppcls_core
from ppcls_core.engine.threads import on_threads
from ppcls_core.runtime.threads import max_threads
import paddle

def product():
    x = paddle.ones([3000, 3000])
    return paddle.matmul(x, x)

def num_threads():
    return len(os.listdir("/proc/self/task"))

assert max_threads() == 3
with on_threads(1):
    product()
    before = num_threads()
product()
print(before, num_threads())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
def test_a_number_of_threads_holds_within_the_block():
    environment = {"OMP_NUM_THREADS": "3", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split()[-2:])
    assert after > before
