"""label: the teacher's soft labels of every kept pool image, as in a test (view 0).

Files: as `tasks.stages.labelling` says.
"""

from __future__ import annotations

from ppcls_core.data.views import TestView
from ppcls_core.labels.shard import Origin
from tasks.run.stage import Outcome, Work
from tasks.stages.labelling import label_views, origin_of


def origin(work: Work) -> Origin:
    """Fingerprints that labels depend on: the teacher's weights, and how it sees an image."""
    return origin_of(work, _views(work))


def run(work: Work) -> Outcome:
    """Label the pool, shard by shard."""
    outcome = label_views(work, "dedup/kept.arrow", _views(work), range(1))
    if not outcome.counts["in"]:
        work.monitor.note("no pool image is left to label: students see the labelled images alone")
    return outcome


def _views(work: Work) -> TestView:
    return TestView(preprocess=work.recipe.teacher.preprocess)
