"""Labels that an earlier result of a stage has for some of the images that are to be labelled.

A refused pair, another rule of the search or a pool that has grown give another list of mostly the
same images, and the teacher costs more than all else.
"""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json
from data_catalog.images.columns import Images, are_same, read_images
from ppcls_core.labels.labeller import FILE
from ppcls_core.labels.shard import Origin
from ppcls_core.labels.store import LabelStore
from ppcls_core.labels.teacher import Item
from tasks.run.earlier import earlier_results
from tasks.run.stage import Work


@dataclass(frozen=True)
class KnownLabels:
    """`store` has the labels of those images of a list that `is_known` (bool [images])."""

    store: LabelStore
    is_known: np.ndarray

    @staticmethod
    def of(folder: Path, origin: Origin, images: Images, numbers: range) -> KnownLabels:
        """Those of the views `numbers` of `images` in the folder of a result: of images that had
        the same id and content. Raises UserError: of another origin, or what it labelled is gone.
        """
        store = LabelStore.open(folder, origin=origin)
        labelled = read_images(Path(read_json(folder / FILE)["images"]), {})
        is_known = are_same(images, labelled)
        for number in numbers:
            is_known &= store.has(images.ids, number)
        return KnownLabels(store, is_known)

    def added(self, items: Sequence[Item], labels: pa.Table, new: Sequence[Item]) -> pa.Table:
        """The labels of `items`, in their order: `labels`, which are of some of `new`, and those
        known of the others."""
        is_new = {(image_id, view) for image_id, _, view in new}
        known = [(i, v) for i, _, v in items if (i, v) not in is_new]
        if not known:
            return labels
        table = pa.concat_tables([labels, self.store.stored(*zip(*known, strict=True))])
        place = {(i, v): n for n, (i, _, v) in enumerate(items)}
        pairs = zip(table["image_id"].to_pylist(), table["view"].to_pylist(), strict=True)
        return table.take(np.argsort([place[pair] for pair in pairs])).combine_chunks()


def find_known(
    work: Work, origin: Origin, images: Images, numbers: range, precision: str | None
) -> tuple[Path | None, int]:
    """The earlier result, by its folder, that has most of these labels, and how many (0: None).

    It was made with the same settings of the labels, and in `precision` if that is given.
    """
    settings = work.recipe.label.model_dump(mode="json").items()
    best: tuple[Path | None, int] = None, 0
    for other in earlier_results(work, "tasks.stages.label"):
        try:
            if other.settings["label"].items() <= settings:
                known = KnownLabels.of(other.directory, origin, images, numbers)
                found = int(known.is_known.sum()) * len(numbers)
                if found > best[1] and precision in (None, known.store.header.precision):
                    best = other.directory, found
        except UserError:
            continue
    return best
