"""finetune: the distilled student goes on at a small learning rate on the labelled images alone.

As published, it still learns the teacher's outputs. Files: model.pdparams, history.json.
"""

from __future__ import annotations

from tasks.run.stage import Outcome, Work
from tasks.stages.models import student_of
from tasks.stages.training import distill_from_teacher


def run(work: Work) -> Outcome:
    """Train the distilled student further."""
    student = student_of(work, "distill")
    return distill_from_teacher(work, student, "data/train.arrow", work.recipe.finetune)
