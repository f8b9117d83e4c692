"""A search as an Optuna study: what it is a search of, which point is next, what became of it.

Processes share the study by its storage alone. Each, in turn, asks for a point under a lock, and
holds another lock while it trains: a trial that runs and has no such lock is of a process that has
died, and is tried again.
"""

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from data_catalog.base.errors import UserError
from data_catalog.base.files import LockHeld, digest_of, locked
from data_catalog.base.words import counted
from ppcls_core.jobs.job import Job
from ppcls_core.jobs.tuning.rows import TrialRow, Trials, best_of
from ppcls_core.jobs.tuning.settings import Sampler
from ppcls_core.jobs.tuning.space import Axis, Space, load_quietly, weights_settings
from ppcls_core.runtime.randomness import seed_of

NAME, JOURNAL = "search", "journal.jsonl"  # of the study; of its storage, in the folder
IDENTITY, REASON, ATTEMPT, TOP1, SECONDS = "search", "reason", "attempt", "top1", "seconds"
MAX_ATTEMPTS = 3  # at a point whose process dies
MAX_REPEATS = 30  # proposals in a row of points that are tried already
ASK_LOCK = "ask.lock"  # held to choose a point, and to remove weights
WARM_UP = 3  # the share of the epochs, one in so many, in which nothing is pruned
STARTUP = 5  # trials before the sampler has an opinion, and before the pruner has one
MIN_COMPARED = 4  # completed trials from which importances can be told


@dataclass(frozen=True)
class HyperSearch:
    """A search: of which training, over which space, how, how far and where.

    `num_trials` is of different points; each is trained `repeats` times, from as many seeds; `seed`
    is of the draws of points. Files go to `folder`; the study to the database `storage`, by default
    to a file there.
    """

    config: Path
    settings: tuple[str, ...]
    space: Space
    sampler: Sampler
    num_trials: int
    folder: Path
    repeats: int = 1
    prunes: bool = True
    storage: str | None = None
    seed: int = 0

    def overrides(self, trial: FrozenTrial | optuna.Trial) -> tuple[str, ...]:
        """The settings of a trial, as overrides of the training file."""
        return self.space.overrides(point_of(self.space, trial.params))

    def jobs(self, overrides: Sequence[str]) -> list[Job]:
        """The trainings of a point, a seed each."""
        job = load_quietly(self.config, [*self.settings, *overrides])
        folders = (self.trial_folder(overrides) / str(number) for number in range(self.repeats))
        return [
            job.model_copy(update={"output": str(folder), "seed": job.seed + number})
            for number, folder in enumerate(folders)
        ]

    @property
    def limit(self) -> int:
        """Number of points to try."""
        return min(self.num_trials, self.space.size or self.num_trials)

    @property
    def base(self) -> Job:
        """The training as the file and its overrides have it."""
        return load_quietly(self.config, self.settings)

    def trial_folder(self, overrides: Sequence[str]) -> Path:
        """Where a point's files go: the same whichever trial it is, so that it goes on there."""
        return self.folder / "trials" / digest_of(list(overrides))[:12]


def open_study(search: HyperSearch) -> optuna.Study:
    """The study of `search`, made if there is none. Raises UserError: the storage cannot be opened,
    or holds a search of another training or space."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search.folder.mkdir(parents=True, exist_ok=True)
    with locked(search.folder / "open.lock", wait=True):
        try:
            storage = _storage(search)
            study = optuna.create_study(
                storage=storage, study_name=NAME, direction="maximize", load_if_exists=True
            )
            _check_identity(search, study)
        except (SQLAlchemyError, ImportError, ValueError, KeyError) as error:
            where = search.storage or search.folder / JOURNAL
            raise UserError(
                f"storage {where}: cannot be opened ({' '.join(str(error).split())[:200]}); give a "
                "URL of SQLAlchemy such as sqlite:///search.db, or none"
            ) from error
    study.pruner = _pruner(search)
    return study


def _storage(search: HyperSearch) -> BaseStorage:
    if search.storage is None:
        path = search.folder / JOURNAL
        # The kernel releases this lock when its process dies; Optuna's own outlives it.
        lock: Any = FileLock(f"{path}.lock")
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    waits = {"connect_args": {"timeout": 100}} if search.storage.startswith("sqlite") else None
    return RDBStorage(search.storage, engine_kwargs=waits)


def _pruner(search: HyperSearch) -> optuna.pruners.BasePruner:
    """Below the median of the trials so far at the same epoch, from a third of the epochs on."""
    learning = search.base.learning
    if not search.prunes or learning is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(STARTUP, learning.epochs // WARM_UP)


def _check_identity(search: HyperSearch, study: optuna.Study) -> None:
    wanted: dict[str, Any] = {
        "space": search.space.described(),
        "training": weights_settings(search.base),
        "repeats": search.repeats,
    }
    if search.storage is not None:
        wanted["folder"] = str(search.folder.absolute())
    wanted = _flat(wanted)
    recorded = study.user_attrs.get(IDENTITY)
    if recorded is None:
        study.set_user_attr(IDENTITY, wanted)
        return
    other = sorted(k for k in wanted.keys() | recorded if wanted.get(k) != recorded.get(k))
    if other:
        shown = "; ".join(f"{k}: {recorded.get(k)} there, {wanted.get(k)} here" for k in other[:3])
        raise UserError(
            f"{search.storage or search.folder / JOURNAL}: holds a search with other settings "
            f"({shown[:400]}{'; ...' if len(other) > 3 else ''}); give the same settings, or "
            "another output or storage"
        )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Values by dotted path; lists and tuples are values, as JSON has them."""
    if isinstance(value, dict) and value:
        parts = (_flat(inner, f"{path}.{key}" if path else key) for key, inner in value.items())
        return dict(itertools.chain.from_iterable(part.items() for part in parts))
    return {path: list(value) if isinstance(value, tuple) else value}


def distribution(axis: Axis) -> BaseDistribution:
    """Optuna's distribution of an axis: ordered choices are places in their order."""
    if axis.range is None and axis.is_ordered:
        return IntDistribution(0, len(axis.choices) - 1)
    if axis.range is None:
        return CategoricalDistribution(list(axis.choices))
    low, high, log = axis.range.low, axis.range.high, axis.range.log
    if axis.range.is_whole:
        return IntDistribution(int(low), int(high), log)
    return FloatDistribution(low, high, log)


def point_of(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """The point of a trial's parameters."""
    return {
        axis.name: list(axis.choices)[params[axis.name]] if axis.is_ordered else params[axis.name]
        for axis in space.axes
    }


def _params_of(space: Space, point: Mapping[str, Any]) -> dict[str, Any]:
    return {
        axis.name: list(axis.choices).index(point[axis.name])
        if axis.is_ordered
        else point[axis.name]
        for axis in space.axes
    }


@contextmanager
def next_trial(search: HyperSearch, study: optuna.Study) -> Iterator[optuna.Trial | None]:
    """A trial of a point that nobody has tried, which is this process's for the block.

    None: there are as many as wanted, or no others.
    """
    with ExitStack() as held:
        with locked(search.folder / ASK_LOCK, wait=True):
            retry_lost(search, study)
            trial = _ask(search, study)
            if trial is not None:
                held.enter_context(_lock_of(search, search.overrides(trial)))
        yield trial


def _lock_of(search: HyperSearch, overrides: Sequence[str]) -> Any:
    return locked(search.trial_folder(overrides) / "lock")


def _ask(search: HyperSearch, study: optuna.Study) -> optuna.Trial | None:
    space = search.space
    distributions = {axis.name: distribution(axis) for axis in space.axes}
    for repeats in itertools.count():
        trials = study.get_trials(deepcopy=False)
        tried = {search.overrides(trial) for trial in trials if _counts(space, trial)}
        if len(tried) >= search.limit:
            return None
        waits = any(trial.state == TrialState.WAITING for trial in trials)
        if not waits and (search.sampler == "grid" or (space.size and repeats == MAX_REPEATS)):
            study.enqueue_trial(_params_of(space, _untried(space, tried)))
        study.sampler = sampler(search, len(trials))
        trial = study.ask(distributions)
        if trial.user_attrs.get(ATTEMPT, 1) > MAX_ATTEMPTS:
            trial.set_user_attr(REASON, f"its process was killed {MAX_ATTEMPTS} times")
        elif search.overrides(trial) not in tried:
            return trial
        study.tell(trial, state=TrialState.FAIL)
    raise AssertionError


def sampler(search: HyperSearch, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of the trial `number`: its draws depend on that, the seed and what was found."""
    seed = seed_of(search.seed, "search", search.sampler, number) % 2**32
    if search.sampler == "bayes":
        return optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed)
    return optuna.samplers.RandomSampler(seed)


def _untried(space: Space, tried: set[tuple[str, ...]]) -> dict[str, Any]:
    """A point of a grid that was not tried; the order looks random, and is always the same."""
    points = [point for point in space.points() if space.overrides(point) not in tried]
    order = [digest_of(list(space.overrides(point))) for point in points]
    return points[order.index(min(order))]


def _counts(space: Space, trial: FrozenTrial) -> bool:
    """Whether a trial is of a point of its own: not one that was tried, nor one that was lost."""
    if trial.state == TrialState.FAIL:
        return REASON in trial.user_attrs
    return trial.state != TrialState.WAITING and _has_point(space, trial)


def _has_point(space: Space, trial: FrozenTrial) -> bool:
    """False for a trial that is just being made, or whose process died while it was."""
    return trial.params.keys() == {axis.name for axis in space.axes}


def retry_lost(search: HyperSearch, study: optuna.Study) -> None:
    """End the trials whose processes have died, and put their points first in the queue."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _has_point(search.space, trial):
            study.tell(trial.number, state=TrialState.FAIL)
            continue
        with suppress(LockHeld), _lock_of(search, search.overrides(trial)):
            # It may have ended since it was read: whoever holds the lock tells before he lets go.
            if study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:
                attempt = trial.user_attrs.get(ATTEMPT, 1) + 1
                study.enqueue_trial(trial.params, user_attrs={ATTEMPT: attempt})
                study.tell(trial.number, state=TrialState.FAIL)


def rows_of(search: HyperSearch, study: optuna.Study) -> list[TrialRow]:
    """The points that were tried, or are being tried, by number."""
    trials = study.get_trials(deepcopy=False)
    return [_row(search, trial) for trial in trials if _counts(search.space, trial)]


_STATES: Mapping[TrialState, Any] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


def num_left(search: HyperSearch, study: optuna.Study) -> int:
    """Number of points still to be tried, among them those that are being tried."""
    return search.limit - sum(row.state != "running" for row in rows_of(search, study))


def _row(search: HyperSearch, trial: FrozenTrial) -> TrialRow:
    point = point_of(search.space, trial.params)
    curve = [value for _, value in sorted(trial.intermediate_values.items())]
    return TrialRow(
        trial.number,
        _STATES[trial.state],
        {name: value_shown(value) for name, value in point.items()},
        search.space.overrides(point),
        tuple(trial.user_attrs.get(TOP1, ())),
        tuple(curve),
        trial.user_attrs.get(SECONDS),
        trial.user_attrs.get(REASON, ""),
    )


def value_shown(value: Any) -> str:
    """A value of a point for a reader: a number of a range shortened."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def found(search: HyperSearch, study: optuna.Study) -> Trials:
    """The trials so far, their best and the importances. Raises UserError: all have failed."""
    rows = rows_of(search, study)
    complete = [row for row in rows if row.mean is not None]
    failed = [row for row in rows if row.state == "failed"]
    if failed and len(failed) == len(rows):
        raise UserError(
            f"all {counted(len(failed), 'trial')} failed; the first, with "
            f"{' '.join(failed[0].overrides)}: {failed[0].reason}"
        )
    return Trials(tuple(rows), best_of(rows), _importance(study, complete))


def _importance(study: optuna.Study, complete: Sequence[TrialRow]) -> dict[str, float]:
    if len(complete) < MIN_COMPARED or len({row.mean for row in complete}) == 1:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: float(share) for name, share in shares.items()}
