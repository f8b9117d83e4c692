"""distill: the student learns the teacher's outputs on the selection and the labelled images.

Files: model.pdparams, history.json.
"""

from __future__ import annotations

from tasks.run.stage import Outcome, Work
from tasks.stages.models import new_student
from tasks.stages.training import distill_from_teacher


def run(work: Work) -> Outcome:
    """Train the student on the teacher's outputs; labels are not used."""
    return distill_from_teacher(work, new_student(work), "select/train.arrow", work.recipe.distill)
