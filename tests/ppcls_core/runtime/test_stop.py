"""SIGINT and SIGTERM as a flag; afterwards they mean what they meant before."""

from __future__ import annotations

import signal
import threading

import pytest

from ppcls_core.runtime.monitor import ignore_sigterm_when, stop_on_signals

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in BOTH}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_sets_the_flag_and_the_handlers_come_back(handlers, number):
    with stop_on_signals() as flag:
        assert not flag.is_set
        signal.raise_signal(number)
        assert flag.is_set
        assert flag.received == number
        signal.raise_signal(signal.SIGTERM)  # nothing new
        assert flag.received == number
    assert {n: signal.getsignal(n) for n in BOTH} == handlers


@pytest.mark.parametrize("number", BOTH)
def test_an_interrupt_after_the_first_signal_does_what_it_did_before(handlers, number):
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGINT)
    assert {n: signal.getsignal(n) for n in BOTH} == handlers


def test_sigterm_alone_is_raised_again_after_the_block(handlers):
    received = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    for number in BOTH:
        with stop_on_signals(raise_again=True) as flag:
            signal.raise_signal(number)
            assert flag.received == number
    with stop_on_signals(raise_again=True):
        pass
    assert received == [signal.SIGTERM]


def test_without_the_main_thread_there_are_no_signals(handlers):
    seen = []

    def run():
        with stop_on_signals() as flag:
            seen.append(flag.is_set)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False]


def test_sigterm_is_ignored_only_while_the_condition_holds(handlers):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ignore_sigterm_when(lambda: True)
    signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ignore_sigterm_when(lambda: False)
    signal.raise_signal(signal.SIGTERM)  # whoever ignored it before goes on doing so
