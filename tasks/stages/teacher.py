"""teacher: given weights taken as they are, or a model trained on labelled images.

Files: model.pdparams, history.json (empty for given weights).
"""

from __future__ import annotations

from pathlib import Path

from data_catalog.base.files import write_json
from ppcls_core.engine.evaluator import evaluate
from ppcls_core.engine.objectives import cross_entropy
from ppcls_core.engine.run import HISTORY
from ppcls_core.inference.sidecar import check_class_names
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of
from tasks.run.stage import Outcome, Work
from tasks.stages.models import new_model, trained_model
from tasks.stages.training import FILES, WEIGHTS, eval_data, run_of, train


def run(work: Work) -> Outcome:
    """Adopt or train the teacher."""
    config = work.recipe.teacher
    if config.weights is not None:
        return _adopt(work, Path(config.weights))
    assert config.train is not None
    model = new_model(work, config.model, "teacher")
    model.train()
    own = run_of(work, "data/teacher.arrow", config.train)
    return train(model, cross_entropy(config.train.label_smoothing), own)


def _adopt(work: Work, weights: Path) -> Outcome:
    data = eval_data(work, work.recipe.teacher.preprocess)
    check_class_names(weights, data.images.classes)
    model = trained_model(work, work.recipe.teacher.model, weights)
    accuracy = evaluate(model, data, work.monitor)
    save_state(work.path(WEIGHTS), state_of(model))
    write_json(work.path(HISTORY), [])
    return Outcome(FILES, accuracy.counts, {"top1": accuracy.top1})
