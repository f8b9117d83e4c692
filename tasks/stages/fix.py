"""fix: the classifier alone is tuned at a larger resolution, everything else frozen.

Touvron et al. 2019 (FixRes), as PaddleClas does it: test-time preprocessing on the training images.
Files: model.pdparams, history.json.
"""

from __future__ import annotations

from ppcls_core.engine.objectives import cross_entropy
from ppcls_core.models.registry import classifier_parameters
from tasks.run.stage import Outcome, Work
from tasks.stages.models import student_of
from tasks.stages.training import run_of, train


def run(work: Work) -> Outcome:
    """Train the finetuned student's classifier."""
    config, student = work.recipe.fix, student_of(work, "finetune")
    learning = {id(p) for p in classifier_parameters(student)}
    for parameter in student.parameters():
        parameter.stop_gradient = id(parameter) not in learning
    return train(student, cross_entropy(0.0), run_of(work, "data/train.arrow", config))
