"""baseline: the same student trained on the labelled set alone, what distillation is measured by.

Files: model.pdparams, history.json.
"""

from __future__ import annotations

from ppcls_core.engine.objectives import cross_entropy
from tasks.run.stage import Outcome, Work
from tasks.stages.models import new_student
from tasks.stages.training import run_of, train


def run(work: Work) -> Outcome:
    """Train the student on labels."""
    config, model = work.recipe.baseline, new_student(work)
    model.train()
    own = run_of(work, "data/train.arrow", config)
    return train(model, cross_entropy(config.label_smoothing), own)
