"""label: the teacher's soft labels of every kept pool image, as in a test (view 0).

Files: as `tasks.stages.labelling` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.run.stage import Outcome, Work
from tasks.stages.labelling import label_views, origin_of

if TYPE_CHECKING:
    from ppcls_core.data.views import TestView
    from ppcls_core.labels.shard import Origin


def origin(work: Work) -> Origin:
    """What the labels depend on: the teacher's weights, and how it sees an image."""
    return origin_of(work, _views(work))


def run(work: Work) -> Outcome:
    """Label the pool, shard by shard."""
    return label_views(work, "dedup/kept.arrow", _views(work), range(1))


def _views(work: Work) -> TestView:
    from ppcls_core.data.views import TestView

    return TestView(preprocess=work.recipe.teacher.preprocess)
