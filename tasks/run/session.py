"""One run of a recipe against a store: what is done, what has to run, and what is left of it."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_catalog.base.config import UserError
from data_catalog.base.files import digest_of, write_json
from ppcls_core.inference.engines import Engines
from ppcls_core.runtime.gpu import gpu_names, num_gpus
from ppcls_core.runtime.monitor import Monitor
from ppcls_core.runtime.paddle import lacks_memory, reason_of
from ppcls_core.runtime.versions import installed_versions
from tasks.dag import STAGES
from tasks.recipe import Recipe
from tasks.run.processes import check_devices, run_in_processes, trainings
from tasks.run.source import source_hash
from tasks.run.stage import Outcome, Stage, Work
from tasks.run.store import MANIFEST, PROGRESS, Result, Store, file_entry
from tasks.run.team import run_on_hosts

MODULES = ("paddle", "cv2", "faiss", "numpy", "prefect")  # whose versions a manifest names
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


@dataclass(frozen=True)
class Lookup:
    """Content of the store under the `key` of a stage: its intact `result`; or the `damage` of one;
    or how far it came before it was stopped (`so_far`, such as "45 of 540 steps")."""

    key: str
    result: Result | None = None
    damage: str = ""
    so_far: str = ""


@dataclass
class Session:
    """One run of a recipe against a store; `done` holds what is finished so far."""

    recipe: Recipe
    store: Store
    refresh: frozenset[str] = frozenset()  # stages to run again though they are done
    deep: bool = False  # read every file of every result again
    done: dict[str, Result] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)  # keys of the results that this run has made
    engines: Engines = field(default_factory=Engines)  # for stages that follow one another
    _outside: dict[str, dict[str, str]] = field(default_factory=dict)  # digests, by stage
    _accepting: threading.Lock = field(default_factory=threading.Lock)

    def of(self, recipe: Recipe) -> Session:
        """The same run with another recipe, of which nothing is done yet."""
        return replace(self, recipe=recipe, done={}, _outside={})

    def inputs_of(self, stage: Stage) -> dict[str, str]:
        """Digest of each input, those outside the store included; what it reads must be done."""
        inside = {}
        for item in stage.inputs.split():
            name, _, pattern = item.partition("/")
            inside[item] = self.done[name].digest_of(pattern)
        if stage.name not in self._outside:
            self._outside[stage.name] = stage.external(self.recipe) if stage.external else {}
        return inside | self._outside[stage.name]

    def key(self, stage: Stage) -> str:
        """Identity of the result that the recipe and the finished stages ask for."""
        settings = stage.deciding_settings(self.recipe)
        return digest_of([stage.name, stage.version, settings, self.inputs_of(stage)])

    def find(self, stage: Stage) -> Lookup:
        """The state in which the store has `stage`; what it reads must be done."""
        key = self.key(stage)
        if result := self.store.load(stage.name, key):
            damage = next(result.damages(self.deep), "")
            return Lookup(key, damage=damage) if damage else Lookup(key, result)
        saved = self.store.progress(stage.name, key)
        so_far = f"{saved['done']:,} of {saved['total']:,} {saved['unit']}" if saved else ""
        return Lookup(key, so_far=so_far)

    def must_run(self, stage: Stage, result: Result) -> bool:
        """Whether `stage`, found as `result`, is asked for again and not made again yet."""
        return stage.name in self.refresh and result.key not in self.made

    def accept(self, result: Result) -> None:
        """Count `result` as done."""
        with self._accepting:  # a file that is read and written again
            self.done[result.stage] = result
            self.store.remember(self.recipe.name, result.stage, result.key)

    def work(self, stage: Stage, monitor: Monitor) -> Work:
        """The argument of the function of `stage`; what it reads must be done."""
        key = self.key(stage)
        directory = self.store.directory(stage.name, key)
        done = {name: self.done[name] for name in STAGES if name in self.done}
        return Work(stage.name, self.recipe, directory, key, done, monitor, self.engines)

    def run(self, stage: Stage, monitor: Monitor, apart: int | None = None) -> Result:
        """Run `stage`, going on from what a killed run left, and commit its result. `apart`: in
        processes of its own, on the GPUs from this number on if there are some, so that other
        stages may run meanwhile. Raises
        UserError: a mistake the user can mend, too few devices, no memory or disk, results removed
        meanwhile, or the same stage running elsewhere; Interrupted: a stop was requested, what is
        finished is kept."""
        check_devices(self.recipe)
        try:
            return self._run_locked(stage, monitor, apart)
        except UserError:
            raise
        except Exception as error:
            if lacks_memory(error):
                raise UserError(
                    f"stage {stage.name}: not enough memory ({reason_of(error)}); give it more, or "
                    "ask for less (fewer `run_time.workers`, a smaller `batch_size`), then run "
                    "again: finished work is kept"
                ) from error
            is_full = isinstance(error, OSError | RuntimeError) and self.store.is_full()
            if getattr(error, "errno", None) not in _STORAGE_ERRORS and not is_full:
                raise  # NumPy and FAISS do not say ENOSPC
            where = getattr(error, "filename", None) or self.store.root
            raise UserError(
                f"stage {stage.name}: cannot write {where} "
                f"({error}); free space or set SSLD_HOME to another disk, then run again: "
                "finished work is kept"
            ) from error

    def _run_locked(self, stage: Stage, monitor: Monitor, apart: int | None) -> Result:
        key = self.key(stage)
        with self.store.lock(stage.name, key):
            if stage.name in self.refresh and self.store.load(stage.name, key):
                self.store.discard(stage.name, key)
            directory = self.store.directory(stage.name, key)
            directory.mkdir(parents=True, exist_ok=True)
            (directory / MANIFEST).unlink(missing_ok=True)  # damaged, or it would not be run
            before = (self.store.progress(stage.name, key) or {}).get("seconds", 0.0)
            clock = _Clock(monitor, directory / PROGRESS, before)
            if stage.name in trainings(self.recipe) and apart is None:
                self.engines.close()  # it needs the memory
            run = self._way_to_run(stage, apart)
            work = self.work(stage, clock)
            with _telling_removal(work):
                try:
                    outcome = run(stage, work)
                except BaseException:
                    with suppress(OSError):  # what stopped it is told
                        clock.write()
                    raise
                result = self._result(stage, work, outcome, clock)
            self.store.commit(result)
            self.store.tidy(result)
        self.accept(result)
        self.made.add(key)
        return result

    def devices(self, stage: Stage) -> int:
        """How many devices run it, on all hosts."""
        run_time = self.recipe.run_time
        return run_time.hosts * run_time.devices if stage.name in trainings(self.recipe) else 1

    def _way_to_run(self, stage: Stage, apart: int | None) -> Callable[[Stage, Work], Outcome]:
        """In this process, in others of this machine, or on several hosts."""
        trains = stage.name in trainings(self.recipe)
        if trains and self.recipe.run_time.hosts > 1:
            return run_on_hosts
        if apart is None and trains and (self.devices(stage) > 1 or num_gpus() > 0):
            apart = 0
        return Stage.run if apart is None else partial(run_in_processes, first_gpu=apart)

    def _result(self, stage: Stage, work: Work, outcome: Outcome, clock: _Clock) -> Result:
        names, volatile = sorted(outcome.files), outcome.volatile
        files = {name: file_entry(work.path(name), name in volatile) for name in names}
        return Result(
            stage=stage.name,
            version=stage.version,
            key=work.key,
            directory=work.directory,
            settings=stage.own_settings(self.recipe),
            inputs=self.inputs_of(stage),
            files=files,
            counts=dict(outcome.counts),
            metrics=dict(outcome.metrics),
            record={
                "seconds": round(clock.seconds, 2),
                "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "devices": self.devices(stage),
                **({"gpus": names} if (names := gpu_names()) else {}),
                "versions": installed_versions(MODULES),
                "source": source_hash(stage.module),
                # Of equal results the ones that were read, which `inputs` do not tell apart.
                "read": {name: self.done[name].key for name in sorted(stage.upstream)},
            },
        )


@contextmanager
def _telling_removal(work: Work) -> Iterator[None]:
    """Where the block fails, raise UserError if the folder of the stage, or of a result that it
    may read, was removed meanwhile."""
    own = os.open(work.directory, os.O_RDONLY)  # what is written makes the folder anew
    try:
        yield
    except Exception as error:
        folders = [result.directory for result in work.inputs.values()]
        gone = next((folder for folder in folders if not (folder / MANIFEST).exists()), None)
        if not (work.directory.exists() and os.path.samestat(os.fstat(own), work.directory.stat())):
            gone = work.directory
        if gone is None:
            raise
        raise UserError(
            f"stage {work.stage}: {gone} was removed while the stage ran; run again: what is left "
            "is not made again"
        ) from error
    finally:
        os.close(own)


@dataclass
class _Clock:
    """A Monitor that passes all on and records progress, with the seconds over all attempts."""

    monitor: Monitor
    path: Path
    before: float
    _start: float = field(default_factory=time.monotonic)
    _state: dict[str, Any] = field(default_factory=dict)
    _written: float = 0.0

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self._start

    @property
    def stop_requested(self) -> bool:
        return self.monitor.stop_requested

    def progress(self, done: int, total: int, unit: str) -> None:
        self.monitor.progress(done, total, unit)
        self._state = {"done": done, "total": total, "unit": unit}
        if time.monotonic() - self._written > 1:
            self.write()

    def write(self) -> None:
        """Record the last progress, if there was one, with the seconds so far."""
        if self._state:
            write_json(self.path, self._state | {"seconds": round(self.seconds, 2)})
            self._written = time.monotonic()

    def metrics(self, values: Mapping[str, float]) -> None:
        self.monitor.metrics(values)

    def note(self, message: str) -> None:
        self.monitor.note(message)
