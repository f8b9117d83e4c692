"""One trial of a search, in a worker process: trainings under a point's settings, measured."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import optuna
import paddle
from optuna.trial import TrialState

from data_catalog.base.errors import UserError
from data_catalog.base.files import locked, read_json
from ppcls_core.engine.run import HISTORY
from ppcls_core.jobs.train import train
from ppcls_core.jobs.tuning.rows import TrialRow, best_of
from ppcls_core.jobs.tuning.study import (
    ASK_LOCK,
    REASON,
    SECONDS,
    TOP1,
    HyperSearch,
    next_trial,
    open_study,
    rows_of,
)
from ppcls_core.models.weights.record import INPUTS, SETTINGS
from ppcls_core.runtime.processes import Parent

LOG = "log.txt"


def start_trials(search: HyperSearch, number: int) -> Callable[[object, Parent], TrialRow | None]:
    """Open the study in the worker process `number`, on a GPU of its own where there are some; what
    runs one trial a request, see `run_trial`."""
    if count := paddle.device.cuda.device_count():
        paddle.device.set_device(f"gpu:{number % count}")
    study = open_study(search)
    return lambda request, parent: run_trial(search, study, parent)


def run_trial(search: HyperSearch, study: optuna.Study, parent: Parent) -> TrialRow | None:
    """Train the next point and tell the study what became of it; None when none is left.

    A training that cannot be done, such as one whose loss is not finite, fails with its reason.
    Raises Interrupted: asked to stop; the point is next when the search goes on.
    """
    with next_trial(search, study) as trial:
        if trial is None:
            return None
        start = time.monotonic()
        try:
            top1 = _measure(search, study, trial, parent)
        except optuna.TrialPruned:
            state, value = TrialState.PRUNED, None
        except UserError as error:
            trial.set_user_attr(REASON, str(error))
            state, value = TrialState.FAIL, None
        else:
            trial.set_user_attr(TOP1, top1)
            state, value = TrialState.COMPLETE, statistics.fmean(top1)
        trial.set_user_attr(SECONDS, time.monotonic() - start)
        study.tell(trial, value, state)
    rows = rows_of(search, study)
    _keep_best_weights(search, rows)
    return next(row for row in rows if row.number == trial.number)


def _measure(
    search: HyperSearch, study: optuna.Study, trial: optuna.Trial, parent: Parent
) -> list[float]:
    """The highest validation top-1 of each seed's training."""
    overrides, found = search.overrides(trial), list[float]()
    path = search.trial_folder(overrides) / LOG
    with path.open("a") as log:
        for number, job in enumerate(search.jobs(overrides)):
            assert job.learning
            supervisor = _Supervisor(None if number else trial, job.learning.epochs, parent)
            folder = train(job, lambda line: print(line, file=log, flush=True), supervisor)
            _check_inputs(study, read_json(folder / SETTINGS)[INPUTS])
            found.append(max(row.get("top1", 0.0) for row in read_json(folder / HISTORY)))
    return found


@dataclass(frozen=True)
class _Supervisor:
    """Passes on requests to stop, and ends a hopeless training, if `trial` is not None."""

    trial: optuna.Trial | None
    epochs: int
    parent: Parent

    @property
    def stop_requested(self) -> bool:
        return self.parent.stop_requested

    def after_epoch(self, row: Mapping[str, float]) -> None:
        if self.trial is None or "top1" not in row:
            return
        self.trial.report(row["top1"], int(row["epoch"]))
        if row["epoch"] < self.epochs and self.trial.should_prune():
            raise optuna.TrialPruned


def _check_inputs(study: optuna.Study, inputs: Mapping[str, str]) -> None:
    """Raise UserError if images or given weights are not those of the first trial."""
    first = study.user_attrs.get(INPUTS)
    if first is None:
        study.set_user_attr(INPUTS, inputs)
    elif changed := [name for name in inputs if inputs[name] != first.get(name)]:
        raise UserError(
            f"the {' and '.join(changed)} have changed since the first trial, so that its result "
            "cannot be compared; restore them, or search anew in another output"
        )


def _keep_best_weights(search: HyperSearch, rows: Sequence[TrialRow]) -> None:
    """Remove weights and checkpoints of all finished trials but the best."""
    best = best_of(rows)
    with locked(search.folder / ASK_LOCK, wait=True):
        for row in rows:
            if row.state == "running" or row is best:
                continue
            folder = search.trial_folder(row.overrides)
            for path in [*folder.rglob("*.pdparams"), *folder.rglob("*.pdckpt")]:
                path.unlink(missing_ok=True)
