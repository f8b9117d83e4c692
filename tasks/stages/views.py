"""views: the teacher's soft labels of `label.views` augmented views of the student's images.

A student with `teacher: replay` is trained from them, in epoch e on view e modulo `label.views`,
augmented as `distill` says. Without views the stage makes nothing. Files: as `labelling`.
"""

from __future__ import annotations

from ppcls_core.data.views import AugmentedViews
from ppcls_core.labels.shard import Origin
from ppcls_core.runtime.randomness import seed_of
from tasks.run.stage import Outcome, Work
from tasks.stages.labelling import label_views, origin_of


def origin(work: Work) -> Origin:
    """Fingerprints that labels depend on: the teacher's weights, and the augmentation."""
    return origin_of(work, augmented_views(work))


def run(work: Work) -> Outcome:
    """Label the views, shard by shard."""
    numbers = range(1, work.recipe.label.views + 1)
    return label_views(work, "select/train.arrow", augmented_views(work), numbers)


def augmented_views(work: Work) -> AugmentedViews:
    """The views that the distillation sees in its first `label.views` epochs."""
    config = work.recipe.distill
    return AugmentedViews(
        augmentation=config.augmentation,
        image_size=config.image_size,
        root_seed=seed_of(work.recipe.seed, "distill"),
        num=max(1, work.recipe.label.views),
    )
