"""Work is timed by phase, whatever else the machine does."""

import subprocess
import sys
import time

from tasks.plan.timing import EPOCHS, Cost, Timing, Usage, Used

# Clocks are read one after the other, so the interval of one may begin later than another's.
CLOCKS = 0.01  # seconds

BUSY = "import time\nwhile time.process_time() < 0.3: pass"


def spend(seconds: float) -> None:
    """Processor seconds of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def timed() -> Used:
    with Usage() as usage:
        timing = Timing(usage)
        spend(0.2)  # before the first report
        for done in range(1, 4):
            timing.progress(done, 3, "images")
            spend(0.1)  # the last one: between two phases
        for done in (1, 2):
            timing.progress(done, 2, "steps")
            spend(0.05)
        timing.metrics({})
        spend(0.1)
        return timing.close()


def test_each_interval_belongs_to_the_phase_that_reports_at_its_end() -> None:
    used = timed()
    images, steps, epochs = used.phases
    assert [(p.unit, p.total, p.done) for p in used.phases] == [
        ("images", 3, 2),
        ("steps", 2, 1),
        (EPOCHS, 0, 1),
    ]
    parts = [used.start, used.end]
    for phase in used.phases:
        parts += [phase.cost, phase.after]
    assert abs(sum(parts, Cost()).thread - used.total.thread) < 1e-6
    want = [(used.start, 0.2), (images.cost, 0.2), (images.after, 0.1), (used.end, 0.1)]
    for cost, least in [*want, (steps.cost, 0.05), (epochs.cost, 0.05)]:
        assert least <= cost.thread
        assert cost.thread <= cost.wall + CLOCKS
    assert used.memory > 1 << 20


def test_the_time_of_processes_counts_though_they_have_ended() -> None:
    with Usage() as usage:
        timing = Timing(usage)
        subprocess.run([sys.executable, "-c", BUSY], check=True)
        used = timing.close()
    assert used.total.core >= 0.25
    assert used.total.thread < 0.2


def test_alone_work_takes_no_longer_than_its_threads_need() -> None:
    assert Cost(10, 4, 3).alone(2) == 3  # it waited for others
    assert Cost(10, 8, 3).alone(2) == 4  # two cores were busy
    assert Cost(2, 8, 3).alone(2) == 2
