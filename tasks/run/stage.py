"""The stage contract: a pure function of (own settings, inputs, version) that leaves files behind.

    key       = sha256(name, version, own settings, digests of the input files)
    directory = STORE/<stage>/<key>/
    manifest  = manifest.json there, written last

A stage whose manifest is there with its files intact is not run again. What a killed run had
finished (shards, checkpoints) lies in the same directory, where the next run of the same key finds
it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppcls_core.runtime.monitor import Monitor
from tasks.recipe import Recipe
from tasks.run.store import Result

Results = Mapping[str, Result]  # by stage


@dataclass(frozen=True)
class Outcome:
    """Files that a stage leaves, relative to its directory, counts that reconcile, metrics."""

    files: Sequence[str]
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    volatile: Sequence[str] = ()  # of `files`, those that hold times


@dataclass(frozen=True)
class Work:
    """The argument of a stage's function: recipe, own directory, results of other stages."""

    stage: str
    recipe: Recipe
    directory: Path  # the stage's own; what an earlier, killed run finished lies there
    key: str
    inputs: Results
    monitor: Monitor

    def path(self, name: str) -> Path:
        """A file of this stage."""
        return self.directory / name


def no_external(recipe: Recipe) -> dict[str, str]:
    """Digests of files outside the store that a stage reads: none."""
    return {}


@dataclass(frozen=True)
class Stage:
    """A stage: `settings` and `inputs` are all that its result depends on.

    settings: sections of the recipe. inputs: "stage/file pattern"; one with a wildcard may match no
    file. external: digests of what lies outside the store (a data set, given weights).
    """

    name: str
    version: int  # raised when equal inputs would give other outputs
    settings: tuple[str, ...]
    inputs: tuple[str, ...]
    external: Callable[[Recipe], dict[str, str]] = no_external

    @property
    def module(self) -> str:
        """The module that defines the stage, which may import Paddle."""
        return f"tasks.stages.{self.name}"

    @property
    def upstream(self) -> tuple[str, ...]:
        """Names of the stages it reads from."""
        return tuple(dict.fromkeys(item.partition("/")[0] for item in self.inputs))

    def run(self, work: Work) -> Outcome:
        """Call the function `run` of the stage's module, imported only now."""
        return pkgutil.resolve_name(f"{self.module}:run")(work)

    def own_settings(self, recipe: Recipe) -> dict[str, Any]:
        """The recipe's sections, or fields of one, that decide this stage's result."""
        dumped, own = recipe.model_dump(mode="json"), {}
        for setting in self.settings:
            section, _, name = setting.partition(".")
            if name:
                own.setdefault(section, {})[name] = dumped[section][name]
            else:
                own[section] = dumped[section]
        return own
