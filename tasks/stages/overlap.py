"""overlap: which labelled images show a validation image; on request they leave the labelled set.

Files: train.arrow, teacher.arrow (those of the stage data, without the images that are removed);
those that `ppcls_core.dedup.search` lists, of a search of both for the validation images, and
pairs.html, the page of it. Its index serves the stage dedup too.
"""

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.base.config import UserError
from data_catalog.images.columns import Images, together, write_images
from ppcls_core.dedup.run import find_duplicates
from ppcls_core.report.model import Overlap
from ppcls_core.report.search import PAGE, write_search_page
from tasks.run.counts import SHOWING, TAKEN_OVER
from tasks.run.stage import Outcome, Work
from tasks.stages.searching import labelled_sets, search_files, search_of, take_over


def run(work: Work) -> Outcome:
    """Search the labelled images for the validation images, without canaries: dedup has those."""
    sets = labelled_sets(work)
    config = work.recipe.dedup.model_copy(update={"canaries": 0})
    search = search_of(work, together(*sets.values()), "labelled", config)
    taken = take_over(work, search)
    result = find_duplicates(search, work.monitor)
    write_search_page(search, result)
    pairs, remove = work.own_table("pairs.parquet"), work.recipe.overlap.remove
    showing = pairs["pool_id"].unique()
    for name, images in sets.items():
        kept = _without(images, showing) if remove else images
        if not len(kept):
            raise UserError(
                f"overlap.remove: each of the {len(images):,} images of `{name}` shows a "
                "validation image; nothing is left to learn from: give other validation images"
            )
        write_images(work.path(f"{name}.arrow"), kept)
    num_val = pc.count_distinct(pairs["val_id"]).as_py()
    if len(showing):
        names = f"{', '.join(showing[:3].to_pylist())}{', ...' * (len(showing) > 3)}"
        what = "not trained on" if remove else "overlap.remove=true leaves such images out"
        work.monitor.note(f"{Overlap(len(showing), num_val, remove)}: {names}; {what}")
    num = len(search.pool)
    return Outcome(
        files=[*(f"{name}.arrow" for name in sets), *search_files(work, search), PAGE],
        volatile=[PAGE],
        counts={
            "in": num,
            "out": num - len(showing) if remove else num,
            SHOWING: len(showing),
        },
        metrics={
            "pairs": result.num_pairs,
            "labelled": len(showing),
            "val": num_val,
            "removed": remove,
            "decisions": result.decision_counts,
            TAKEN_OVER: taken,
        },
    )


def _without(images: Images, ids: pa.Array) -> Images:
    return images.take(pc.invert(pc.is_in(images.table["image_id"], ids)).to_numpy())
