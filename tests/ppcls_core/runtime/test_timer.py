"""The timer runs work as often as asked, in turn."""

from ppcls_core.runtime.timer import Repeats, time_in_turn


def test_runs_are_in_turn_and_only_those_after_the_warm_up_count():
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = time_in_turn(runs, Repeats(warmup=2, rounds=3, seconds=0))
    assert order == list("ab" * 5)
    assert {name: len(t) for name, t in timings.items()} == {"a": 3, "b": 3}


def test_quick_work_is_repeated_up_to_the_most():
    calls: list[int] = []
    timing = time_in_turn({"": lambda: calls.append(1)}, Repeats(1, 2, 100.0, 7))[""]
    assert len(calls) == 8
    assert len(timing) == 7
