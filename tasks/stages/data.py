"""data: what the recipe's data sets hold, as images train, teacher, val and pool.

Files: train.arrow, teacher.arrow (what a teacher is trained on: train, unless the data set has
more for it), val.arrow, pool.arrow (data_catalog.images.columns), planted.parquet (pool_id,
val_id, transform: the truth of planted duplicates, empty where none is known), roots.json (where
each root lies). Files that were passed over are no part of these tables, which stay the same when
a README is added: they stand in the metrics, by split and reason, as does what `ssld init` left out
when it wrote the labelled set.
"""

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from data_catalog.base.config import UserError
from data_catalog.base.errors import errors_of
from data_catalog.base.files import read_json, write_json, write_table
from data_catalog.catalog import load_dataset
from data_catalog.images.collect import describe
from data_catalog.images.columns import SCHEMA, Images, write_images
from data_catalog.recipes import INIT, ROOTS
from data_catalog.sources import PLANTED_SCHEMA, Dataset, Splits
from ppcls_core.data.lost import check_lost, missing_of
from ppcls_core.inference.onnx_session import open_session
from ppcls_core.inference.sidecar import check_class_names
from ppcls_core.labels.config import LabelFileConfig, OnnxConfig
from ppcls_core.labels.onnx_images import image_classifier
from ppcls_core.labels.table import check_beginning
from ppcls_core.models.weights.files import check_is_weights
from ppcls_core.runtime.monitor import check
from tasks.recipe import Recipe
from tasks.run.counts import are_all_in
from tasks.run.stage import Outcome, Work
from tasks.start.record import left_out_by_init

_KINDS = {"train": "training", "teacher": "teacher's", "val": "validation", "pool": "pool"}
QUIET_SECONDS = 5.0  # of reading images, before it is said that this takes a while

_Read = dict[Dataset, Splits]
_last: tuple[Recipe, _Read] | None = None  # what `fingerprints` read, for `run` to take
_checked: _Read = {}  # what `checked_data` read, for all in its block


def datasets(recipe: Recipe) -> tuple[Dataset, Dataset]:
    """The labelled set and the pool; one and the same object when the recipe names one for both."""
    data = recipe.data
    with errors_of("data.labelled"):
        labelled = load_dataset(data.labelled, data.options, Path.cwd())
    if data.pool == data.labelled and not data.pool_options:
        return labelled, labelled
    with errors_of("data.pool"):
        return labelled, load_dataset(data.pool, data.pool_options, Path.cwd())


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """Digest of each data set as it lies now.

    Files that have not been read yet, or changed since, are read; the next run of this recipe
    object takes what was read.
    """
    global _last
    labelled, pool = datasets(recipe)
    read = dict(_checked)
    prints = {"labelled data set": _fingerprint(labelled, read)}
    if pool is not labelled:
        prints["pool data set"] = _fingerprint(pool, read)
    _last = recipe, read
    return prints


def _fingerprint(dataset: Dataset, read: _Read) -> str:
    if dataset not in read:
        read[dataset] = _build(dataset)
    return dataset.fingerprint(read[dataset])


def _build(dataset: Dataset) -> Splits:
    return dataset.build(Path(), _Slow(dataset.name))


@contextmanager
def checked_data(recipe: Recipe) -> Iterator[dict[str, Images]]:
    """The images of the recipe's splits (train, teacher, val, pool), before anything runs; in the
    block no set is read again. Raises UserError: as `Dataset.build` and `_splits`."""
    labelled, pool = datasets(recipe)
    try:
        for dataset in {labelled, pool}:
            _checked[dataset] = _build(dataset)
        yield _splits(recipe, _checked[labelled], _checked[pool])
    finally:
        _checked.clear()


def _splits(recipe: Recipe, first: Splits, second: Splits) -> dict[str, Images]:
    """The images of the labelled set `first` and of the pool `second`. Raises UserError: a split is
    not there, or too many of its files are not."""
    train = _required(first.train, "train", recipe.data.labelled)
    found = {
        "train": train,
        "teacher": train if first.teacher is None else first.teacher,
        "val": _required(first.val, "val", recipe.data.labelled),
        "pool": _required(second.pool, "pool", recipe.data.pool),
    }
    for name, kind in _KINDS.items():
        if missing := missing_of(found[name]):
            most = 1.0 if name == "pool" else recipe.run_time.max_lost
            try:
                check_lost(kind, missing, len(found[name]), most)
            except UserError as error:
                raise UserError(f"{error}{_init_again(recipe)}") from None
    return found


def _init_again(recipe: Recipe) -> str:
    """What mends lists that `ssld init` wrote, of images that are not there any more."""
    at = Path(recipe.data.labelled).parent
    if photos := (read_json(at / INIT) or {}).get("folder"):
        command = f"ssld init {shlex.quote(photos)} --name {at.name.removesuffix('_data')}"
        return f"; if images were moved or renamed, `{command}` in {at.parent} lists them anew"
    return ""


def check_teachers(recipe: Recipe, classes: Sequence[str]) -> None:
    """Raise UserError for a teacher's file that cannot be used with these classes, as far as that
    is seen without reading all of it: hours before the stage `teacher` would."""
    for teacher in recipe.teachers.values():
        if isinstance(teacher, LabelFileConfig):
            check_beginning(teacher, classes)
        elif isinstance(teacher, OnnxConfig):
            session = open_session(Path(teacher.onnx), threads=1)
            image_classifier(session, teacher, len(teacher.order(classes)))
        elif teacher.weights:
            check_is_weights(Path(teacher.weights))
            if teacher.train is None:
                check_class_names(Path(teacher.weights), classes)


class _Slow:
    """Tells on standard error how far a long reading is."""

    def __init__(self, name: str) -> None:
        self.name, self.next = name, time.monotonic() + QUIET_SECONDS

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() > self.next:
            self.next = time.monotonic() + QUIET_SECONDS
            print(f"data set {self.name}: {done:,} of {total:,} images", file=sys.stderr)


def _take(recipe: Recipe) -> _Read:
    """The sets that `fingerprints` has just read for this recipe; once, for files change."""
    global _last
    found, _last = _last, None
    return found[1] if found and found[0] is recipe else {}


def run(work: Work) -> Outcome:
    """Describe the data sets."""

    def progress(done: int, total: int) -> None:
        work.monitor.progress(done, total, "images")
        check(work.monitor)

    splits, planted = image_sets(work.recipe, work.directory, progress)
    check_teachers(work.recipe, splits["val"].classes)
    train = splits["train"]
    for name, images in splits.items():
        is_train = len(images) == len(train) and are_all_in(images, train)
        if name == "train" or not is_train:  # which stands for a set that is not given
            work.monitor.note(f"{name}: {describe(images)}")
    return Outcome(
        files=write_sets(work.directory, splits, planted),
        volatile=[ROOTS],
        counts={name: len(images) for name, images in splits.items()},
        metrics={
            "classes": len(splits["train"].classes),
            "planted": planted.num_rows,
            "passed_over": {
                name: {entry.reason: entry.count for entry in images.passed_over}
                for name, images in splits.items()
            },
            "damaged": {name: len(images.damaged) for name, images in splits.items()},
            "init": left_out_by_init(work.recipe.data.labelled),
        },
    )


def image_sets(
    recipe: Recipe, directory: Path, progress: Callable[[int, int], None]
) -> tuple[dict[str, Images], pa.Table]:
    """(the images train, teacher, val and pool of a recipe, the planted duplicates).

    Raises UserError: a set is not there, or lacks what the recipe needs.
    """
    read = _take(recipe)
    labelled, pool = datasets(recipe)
    first = read.get(labelled) or labelled.build(directory, progress)
    second = first
    if pool is not labelled:
        second = read.get(pool) or pool.build(directory, progress)
    splits = _splits(recipe, first, second)
    if pool is not labelled:
        splits["pool"] = _with_root(splits["pool"], "pool")
    planted = second.planted if second.planted is not None else PLANTED_SCHEMA.empty_table()
    return splits, planted.cast(PLANTED_SCHEMA)


def write_sets(directory: Path, splits: Mapping[str, Images], planted: pa.Table) -> list[str]:
    """Write the files of this stage; their names."""
    for name, images in splits.items():
        write_images(directory / f"{name}.arrow", replace(images, passed_over=()))
    write_table(directory / "planted.parquet", planted)
    roots = {name: path for images in splits.values() for name, path in images.roots.items()}
    write_json(directory / ROOTS, roots)
    return [*(f"{name}.arrow" for name in splits), "planted.parquet", ROOTS]


def _required(images: Images | None, split: str, name: str) -> Images:
    if images is None:
        raise UserError(f"data set '{name}' has no split '{split}', which the recipe needs; add it")
    return images


def _with_root(images: Images, name: str) -> Images:
    """The same images, with another name for their one root."""
    (folder,) = images.roots.values()
    indices, names = (chunk.indices for chunk in images.table["root"].chunks), pa.array([name])
    chunks = [pa.DictionaryArray.from_arrays(each, names) for each in indices]
    at = SCHEMA.get_field_index("root")
    column = pa.chunked_array(chunks, SCHEMA.field(at).type)
    table = images.table.set_column(at, SCHEMA.field(at), column)
    return replace(images, table=table, roots={name: folder})
