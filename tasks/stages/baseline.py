"""baseline: the same student trained on the labelled set alone, what distillation is measured by.

Files: model.pdparams, history.json.
"""

from __future__ import annotations

from tasks.run.stage import Outcome, Work
from tasks.stages.training import loader_of, new_student, train


def run(work: Work) -> Outcome:
    """Train the student on labels."""
    from ppcls_core.engine.objectives import cross_entropy

    config, model = work.recipe.baseline, new_student(work)
    model.train()
    loader = loader_of(work, "data/train.arrow", config)
    return train(work, model, cross_entropy(config.label_smoothing), loader, config)
