"""The stage contract: a pure function of (own settings, inputs, version) that leaves files behind.

    key       = sha256(name, version, own settings, digests of the input files)
    directory = STORE/<stage>/<key>/
    manifest  = manifest.json there, written last

A stage whose manifest is there with its files intact is not run again. What a killed run had
finished (shards, checkpoints) lies in the same directory, where the next run of the same key finds
it.
"""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.files import read_json
from data_catalog.images.columns import Images, Roots, read_images
from data_catalog.recipes import ROOTS
from ppcls_core.inference.engines import Engines
from ppcls_core.runtime.monitor import Monitor
from tasks.recipe import GIVEN, Recipe
from tasks.run.store import Result


@dataclass(frozen=True)
class Outcome:
    """Files that a stage leaves, relative to its directory, counts that reconcile, metrics."""

    files: Sequence[str]
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    volatile: Sequence[str] = ()  # of `files`, those that hold times, and pages


@dataclass(frozen=True)
class Work:
    """The argument of a stage's function: recipe, own directory, results of other stages.

    A file of another stage is named "stage/file".
    """

    stage: str
    recipe: Recipe
    directory: Path  # the stage's own; what an earlier, killed run finished lies there
    key: str
    inputs: Mapping[str, Result]  # by stage
    monitor: Monitor
    engines: Engines = field(default_factory=Engines)  # processes that run networks

    def path(self, name: str) -> Path:
        """A file of this stage."""
        return self.directory / name

    def input(self, name: str) -> Path:
        """A file of another stage."""
        stage, _, file = name.partition("/")
        return self.inputs[stage].path(file)

    def roots(self) -> Roots:
        """Where the images of each root lie on this machine."""
        return read_json(self.input(f"data/{ROOTS}"))

    def images(self, name: str) -> Images:
        """The images that another stage's file lists."""
        return read_images(self.input(name), self.roots())

    def own_table(self, name: str) -> pa.Table:
        """A Parquet table of this stage."""
        return pq.read_table(self.path(name))

    def table(self, name: str) -> pa.Table:
        """A Parquet table of another stage."""
        return pq.read_table(self.input(name))

    def num_classes(self) -> int:
        """Number of classes of the labelled set."""
        return len(self.images("data/train.arrow").classes)


@dataclass(frozen=True)
class Stage:
    """A stage: `settings` and `inputs` are all that its result depends on.

    function: "module:function", which may import Paddle. settings: sections of the recipe, or
    fields of one. inputs: "stage/file pattern"; one with a wildcard may match no file. Both are
    separated by spaces. external: digests of what lies outside the store (a data set, weights).
    """

    name: str
    version: int  # raised when equal inputs would give other outputs
    function: str
    settings: str
    inputs: str = ""
    external: Callable[[Recipe], dict[str, str]] | None = None

    @property
    def module(self) -> str:
        """The module that defines the stage."""
        return self.function.partition(":")[0]

    @property
    def upstream(self) -> tuple[str, ...]:
        """Names of the stages it reads from."""
        return tuple(dict.fromkeys(item.partition("/")[0] for item in self.inputs.split()))

    def run(self, work: Work) -> Outcome:
        """Call the stage's function, imported only now."""
        return pkgutil.resolve_name(self.function)(work)

    def deciding_settings(self, recipe: Recipe) -> dict[str, Any]:
        """`own_settings` without the places of a teacher's files: what is in them decides, which
        digests of the inputs say; a virtual environment that moved labels no pool again."""
        own = self.own_settings(recipe)
        teachers = own.get("teacher", ())
        for teacher in [teachers] if isinstance(teachers, dict) else teachers:
            for name in teacher.keys() & set(GIVEN):
                teacher[name] = teacher[name] is not None
        return own

    def own_settings(self, recipe: Recipe) -> dict[str, Any]:
        """The part of the recipe that this stage reads."""
        dumped: dict[str, Any] = recipe.model_dump(mode="json")
        own: dict[str, Any] = {}
        for setting in self.settings.split():
            section, _, name = setting.partition(".")
            if name and name in dumped[section]:
                own.setdefault(section, {})[name] = dumped[section][name]
            else:  # so of a teacher that has no model all that it has
                own[section] = dumped[section]
        return own
