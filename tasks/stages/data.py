"""data: what the recipe's data sets hold, as images train, teacher, val and pool.

Files: train.arrow, teacher.arrow (what a teacher is trained on: train, unless the data set has
more for it), val.arrow, pool.arrow (data_catalog.images.columns), planted.parquet (pool_id,
val_id, transform: the truth of planted duplicates, empty where none is known), the images of a
generated set, roots.json (where each root lies, relative paths being the stage's own).
"""

from __future__ import annotations

from pathlib import Path

from data_catalog.base.config import UserError
from data_catalog.base.files import write_json, write_table
from data_catalog.catalog import Dataset, load_dataset
from data_catalog.images.columns import Images, Roots, write_images
from data_catalog.images.lists import PLANTED_SCHEMA
from ppcls_core.runtime.monitor import check
from tasks.recipe import Recipe
from tasks.run.stage import Outcome, Work


def datasets(recipe: Recipe) -> tuple[Dataset, Dataset]:
    """The labelled set and the pool; one and the same object when the recipe names one for both."""
    data = recipe.data
    labelled = load_dataset(data.labelled, data.options, Path.cwd())
    if data.pool == data.labelled and not data.pool_options:
        return labelled, labelled
    return labelled, load_dataset(data.pool, data.pool_options, Path.cwd())


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """Digest of each data set as it lies now."""
    labelled, pool = datasets(recipe)
    prints = {"labelled data set": labelled.fingerprint()}
    return prints if pool is labelled else prints | {"pool data set": pool.fingerprint()}


def run(work: Work) -> Outcome:
    """Describe, and for a generated set make, the data sets."""

    def progress(done: int, total: int) -> None:
        work.monitor.progress(done, total, "images")
        check(work.monitor)

    labelled, pool = datasets(work.recipe)
    first = labelled.build(work.path("labelled"), progress)
    second = first if pool is labelled else pool.build(work.path("pool"), progress)
    train = _required(first.train, "train", work.recipe.data.labelled)
    splits = {
        "train": train,
        "teacher": train if first.teacher is None else first.teacher,
        "val": _required(first.val, "val", work.recipe.data.labelled),
        "pool": _required(second.pool, "pool", work.recipe.data.pool),
    }
    for name, images in splits.items():
        write_images(work.path(f"{name}.arrow"), images)
    planted = second.planted if second.planted is not None else PLANTED_SCHEMA.empty_table()
    write_table(work.path("planted.parquet"), planted.cast(PLANTED_SCHEMA))
    write_json(work.path("roots.json"), _relative(_roots(*splits.values()), work.directory))
    inner = (p for p in work.directory.rglob("*") if p.is_file() and p.parent != work.directory)
    made = [str(path.relative_to(work.directory)) for path in sorted(inner)]
    return Outcome(
        files=[*(f"{name}.arrow" for name in splits), "planted.parquet", "roots.json", *made],
        volatile=["roots.json"],
        counts={name: len(images) for name, images in splits.items()},
        metrics={"classes": len(splits["train"].classes), "planted": planted.num_rows},
    )


def _required(images: Images | None, split: str, name: str) -> Images:
    if images is None:
        raise UserError(f"data set '{name}' has no split '{split}', which the recipe needs; add it")
    return images


def _roots(*sets: Images) -> Roots:
    roots: Roots = {}
    for name, folder in (entry for images in sets for entry in images.roots.items()):
        if roots.setdefault(name, folder) != folder:
            raise UserError(f"labelled set and pool are both named '{name}': rename one of them")
    return roots


def _relative(roots: Roots, directory: Path) -> Roots:
    inside = {n: Path(p).is_relative_to(directory) for n, p in roots.items()}
    return {n: str(Path(p).relative_to(directory)) if inside[n] else p for n, p in roots.items()}
