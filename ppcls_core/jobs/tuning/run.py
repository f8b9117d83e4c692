"""A search from its settings to its files: checked, run or gone on with, written down."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from data_catalog.base.config import override
from data_catalog.base.errors import UserError
from data_catalog.base.files import write_bytes, write_csv
from data_catalog.base.words import counted
from ppcls_core.jobs.job import load_job, read_settings
from ppcls_core.jobs.tuning.rows import TrialRow, Trials
from ppcls_core.jobs.tuning.settings import SearchSettings
from ppcls_core.jobs.tuning.space import load_space
from ppcls_core.jobs.tuning.study import WARM_UP, HyperSearch, found, num_left, open_study
from ppcls_core.jobs.tuning.workers import Workers
from ppcls_core.runtime.monitor import stop_on_signals

BEST, TABLE = "best.yaml", "trials.csv"  # in the folder of a search
TRIALS = 20  # of a space with ranges, which has no size
Log = Callable[[str], None]


def make_search(
    config: Path, settings: Sequence[str], space_name: str, how: SearchSettings, log: Log
) -> HyperSearch:
    """The search over a space for the training in `config`, in the folder `search` beside what the
    training itself would write.

    `log` is told what of the settings has no effect. Raises UserError: not a training, a space that
    does not suit it, a grid over a range, a storage that is no URL.
    """
    job = load_job(config, list(settings))
    if job.train is None or job.learning is None or job.val is None:
        keys = dict.fromkeys(f"`{job.key(name)}`" for name in ("train", "training", "val"))
        raise UserError(f"{config}: a search needs {', '.join(keys)}")
    if not job.is_validated:
        raise UserError(
            f"{config}: a search compares accuracies, but no epoch is validated: set "
            "`training.eval_every` above 0 (`validate: True` in PaddleClas's form)"
        )
    space = load_space(space_name, config, settings)
    if how.sampler == "grid" and space.size is None:
        raise UserError("--sampler grid needs values for each setting: the space has a range")
    if how.storage is not None and "://" not in how.storage:
        raise UserError(f"--storage {how.storage}: expected a URL such as sqlite:///search.db")
    points = space.size or TRIALS
    usual = points if how.sampler == "grid" or space.size is None else math.ceil(points / 10)
    epochs, every = job.learning.epochs, job.learning.eval_every
    if how.prune and (epochs - 1) // every * every < max(1, epochs // WARM_UP):
        log(
            f"no trial can be pruned: it has {counted(epochs, 'epoch')} and is validated every "
            f"{every}, so nothing is compared before its end (`{job.key('eval_every')}`)"
        )
    if space.size is not None and (how.trials or 0) > space.size:
        log(f"--trials {how.trials}: the space has {counted(space.size, 'point')}")
    return HyperSearch(
        config,
        tuple(settings),
        space,
        how.sampler,
        how.trials or usual,
        job.folder / "search",
        how.repeats,
        how.prune,
        how.storage,
        job.seed,
    )


def announce(search: HyperSearch, log: Log) -> int:
    """Number of points that are left to try, which `log` is told. Raises UserError: as
    `open_study`."""
    left = max(0, num_left(search, open_study(search)))
    log(f"{left} of {search.limit} points are left to try; files go to {search.folder}")
    return left


def run_trials(search: HyperSearch, jobs: int, log: Log) -> None:
    """Try the points that are left, in `jobs` processes; `log` gets a line a trial.

    Raises Interrupted: stopped by a signal, with checkpoints of the trainings; UserError: as
    `open_study`, or the processes are killed again and again.
    """
    left = announce(search, log)
    with stop_on_signals() as stop, Workers(search, min(jobs, left), stop, log) as workers:
        for row in workers.trials(left, workers.trial):
            log(trial_line(row))


def write_results(search: HyperSearch) -> Trials:
    """The trials of the search, after its files are written: BEST, `ppcls train`'s file with the
    best point's settings, and TABLE, a row a point. Raises UserError: all trials failed."""
    result = found(search, open_study(search))
    if result.best is not None:
        settings = [*search.settings, *result.best.overrides]
        data = override(read_settings(search.config, lambda repeated: None), settings)
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        head = f"# {' '.join(result.best.overrides)}: top-1 {result.best.mean:.4f} in validation\n"
        write_bytes(search.folder / BEST, (head + text).encode())
    names = [axis.name for axis in search.space.axes]
    columns = ["trial", "state", "top1", *names, "top1 by seed", "validations", "seconds", "reason"]
    write_csv(search.folder / TABLE, columns, map(_table_row, result.rows))
    return result


def _table_row(row: TrialRow) -> dict[str, object]:
    return {
        "trial": row.number,
        "state": row.state,
        "top1": "" if row.mean is None else f"{row.mean:.6f}",
        **row.values,
        "top1 by seed": " ".join(f"{value:.6f}" for value in row.top1),
        "validations": len(row.curve),
        "seconds": "" if row.seconds is None else f"{row.seconds:.1f}",
        "reason": row.reason,
    }


def trial_line(row: TrialRow) -> str:
    """A line about a trial."""
    values = " ".join(f"{name}={value}" for name, value in row.values.items())
    if row.mean is not None:
        state = f"top1:{row.mean:.4f}"
    elif row.state == "pruned":
        state = f"pruned at top1:{row.curve[-1]:.4f}"
    else:
        state = f"{row.state} ({row.reason})" if row.reason else row.state
    return f"trial {row.number}: {state} in {row.seconds or 0:.1f} s: {values}"
